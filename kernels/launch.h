// What a kernel is given besides its parameters, which of its threads this is, and those that work together.

// What is read or written in one piece; more than 16 bytes in several of these.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Vector {
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

// N cells of a row in vectors of K.
template <int K, typename T, int N>
DEVICE void store_vectors(GLOBAL T* row, PRIVATE const T (&cells)[N]) {
#pragma unroll
    for (int v = 0; v < N; v += K) {
        Vector<T, K> vector;
#pragma unroll
        for (int i = 0; i < K; i++) vector.cells[i] = cells[v + i];
        *reinterpret_cast<GLOBAL Vector<T, K>*>(row + v) = vector;
    }
}

// Cells of a row, of which so many are left, in vectors of so many as may be, or one by one.
template <typename T, int N, typename I>
DEVICE void store(GLOBAL T* row, PRIVATE const T (&cells)[N], I left, u32 vectors) {
    constexpr int MOST = 16 / sizeof(T), K = N < MOST ? N : MOST, HALF = K > 1 ? K / 2 : 1;
    if (left >= N && vectors >= K) {
        store_vectors<K>(row, cells);
    } else if (left >= N && vectors >= HALF) {
        store_vectors<HALF>(row, cells);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (I(i) < left) row[i] = cells[i];
    }
}

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
    if (N > 1 && p.together) return {turn.index, turn.count, turn.block, turn.blocks};
    const u32 in_block = turn.count / N;
    return {turn.index % N, N, turn.block * in_block + turn.index / N, turn.blocks * in_block};
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

// Warps of a block, as in src/backend/plan.rs.
#define WARPS 8

// All members' values in one, in an order that does not depend on who is first.
template <int N, typename How, typename C>
DEVICE C all_of(C value, SHARED C* shared, Team team) {
#pragma unroll
    for (int mask = N / 2; mask > 0; mask /= 2) value = How::of(value, exchanged(value, mask));
    if (N > 1 && team.members > WARP) {
        if (team.member % WARP == 0) shared[team.member / WARP] = value;
        wait_for_block();
        value = shared[team.member % WARPS];
#pragma unroll
        for (int mask = WARPS / 2; mask > 0; mask /= 2) value = How::of(value, exchanged(value, mask));
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
        value = numbers[team.member % WARPS];
#pragma unroll
        for (int mask = WARPS / 2; mask > 0; mask /= 2) value = least(value, exchanged(value, mask));
        wait_for_block();
    }
    return value;
}
