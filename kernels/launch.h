// What a kernel is given besides its parameters, and which of its threads this is.

template <typename T>
struct Buffers {
    GLOBAL const T* RESTRICT input;
    GLOBAL const T* RESTRICT grad;
    GLOBAL T* RESTRICT output;
    GLOBAL Compute<T>* RESTRICT scratch;
    // Of the threads of a block.
    SHARED Compute<T>* shared;
};

struct Turn {
    u32 block, blocks, index, count;
};

// A thread takes an item, and then every one that is all threads further on.
#define FOR_ITEMS(item)                                                                     \
    for (I item = I(turn.block) * I(turn.count) + I(turn.index); item < I(p.items);      \
         item += I(turn.blocks) * I(turn.count))
