// What a kernel is given besides its parameters, which of its threads this is, and those that work together.

template <typename T, int N>
struct alignas(N * sizeof(T)) Vector {
    T cells[N];
};

template <typename T>
struct Buffers {
    GLOBAL const T* RESTRICT input;
    GLOBAL const T* RESTRICT logits;
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

// Threads that share a window: one alone, a warp, or with Params::together a block.
struct Team {
    // This thread's place in it, and how many there are.
    u32 member, members;
    // Which of all teams it is, and how many there are.
    u32 team, teams;
};

// N is 1 or WARP.
template <int N>
DEVICE Team team_of(Turn turn, CONSTANT Params& p) {
    const u32 members = N > 1 && p.together ? turn.count : u32(N);
    const u32 in_block = turn.count / members;
    return {turn.index % members, members, turn.block * in_block + turn.index / members, turn.blocks * in_block};
}

#define FOR_TEAMS(item) for (I item = I(team.team); item < I(p.items); item += I(team.teams))

struct Larger {
    template <typename C>
    DEVICE C of(C a, C b) {
        return higher(a, b);
    }
};
struct Sum {
    template <typename C>
    DEVICE C of(C a, C b) {
        return a + b;
    }
};

// All members' values in one, in an order that does not depend on who is first.
template <int N, typename How, typename C>
DEVICE C all_of(C value, SHARED C* shared, Team team) {
#pragma unroll
    for (int mask = N / 2; mask > 0; mask /= 2) value = How::of(value, exchanged(value, mask));
    if (N > 1 && team.members > WARP) {
        if (team.member % WARP == 0) shared[team.member / WARP] = value;
        wait_for_block();
        value = shared[0];
        for (u32 i = 1; i < team.members / WARP; i++) value = How::of(value, shared[i]);
        wait_for_block();
    }
    return value;
}

// The smallest of all members' numbers.
template <int N, typename C>
DEVICE u32 smallest_of(u32 value, SHARED C* shared, Team team) {
#pragma unroll
    for (int mask = N / 2; mask > 0; mask /= 2) value = least(value, exchanged(value, mask));
    if (N > 1 && team.members > WARP) {
        SHARED u32* numbers = reinterpret_cast<SHARED u32*>(shared);
        if (team.member % WARP == 0) numbers[team.member / WARP] = value;
        wait_for_block();
        value = numbers[0];
        for (u32 i = 1; i < team.members / WARP; i++) value = least(value, numbers[i]);
        wait_for_block();
    }
    return value;
}
