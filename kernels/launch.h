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

// Threads that share a window: one alone, a part of a warp, or a block.
struct Team {
    // This thread's place in it, and how many there are.
    u32 member, members;
    // Which of all teams it is, and how many there are.
    u32 team, teams;
    // Its members' bits among those of their warp; a block has all of a warp.
    u32 lanes;
};

DEVICE Team alone() { return {0, 1, 0, 1, 1}; }

DEVICE Team whole_block(Turn turn) { return {turn.index, turn.count, turn.block, turn.blocks, ~u32(0)}; }

// N is 1, or WARP for any number that Params::team is the logarithm of.
template <int N>
DEVICE Team team_of(Turn turn, CONSTANT Params& p) {
    const u32 team = N > 1 ? p.team : 0, members = u32(1) << team;
    if (members > WARP) return whole_block(turn);
    const u32 in_block = turn.count >> team, first = turn.index % WARP & ~(members - 1);
    return {turn.index & (members - 1), members, turn.block * in_block + (turn.index >> team), turn.blocks * in_block,
            ~u32(0) >> (WARP - members) << first};
}

#define FOR_TEAMS(item) for (I item = I(team.team); item < I(p.items); item += I(team.teams))

struct Larger {
    template <typename C>
    DEVICE C of(C a, C b) {
        return higher(a, b);
    }
};
struct Smaller {
    DEVICE u32 of(u32 a, u32 b) { return least(a, b); }
};
// Of sums about one peak.
struct Sum {
    template <typename C>
    DEVICE Sums<C> of(Sums<C> a, Sums<C> b) {
        return {a.peak, a.total + b.total, a.below + b.below};
    }
};

// What the member whose number differs in these bits has.
template <typename C>
DEVICE C others(C value, u32 mask, Team team) {
    return exchanged(value, mask, team.lanes);
}
template <typename C>
DEVICE Sums<C> others(Sums<C> sums, u32 mask, Team team) {
    return {sums.peak, exchanged(sums.total, mask, team.lanes), exchanged(sums.below, mask, team.lanes)};
}

// Warps of a block at most, as in src/backend/plan.rs.
#define WARPS 8

// What a warp tells the others of its block.
template <typename C>
DEVICE void tell(SHARED C* numbers, u32 warp, C value) {
    numbers[warp] = value;
}
template <typename C>
DEVICE void tell(SHARED C* numbers, u32 warp, Sums<C> sums) {
    numbers[2 * warp] = sums.total;
    numbers[2 * warp + 1] = sums.below;
}
template <typename C>
DEVICE C told(SHARED const C* numbers, u32 warp, C) {
    return numbers[warp];
}
template <typename C>
DEVICE Sums<C> told(SHARED const C* numbers, u32 warp, Sums<C> own) {
    return {own.peak, numbers[2 * warp], numbers[2 * warp + 1]};
}

// All members' values in one, in an order that does not depend on who is first.
template <typename How, typename V, typename C>
DEVICE V all_of(V value, SHARED C* numbers, Team team) {
#pragma unroll
    for (u32 mask = WARP / 2; mask > 0; mask /= 2)
        if (mask < team.members) value = How::of(value, others(value, mask, team));
    if (team.members > WARP) {
        if (team.member % WARP == 0) tell(numbers, team.member / WARP, value);
        wait_for_block();
        value = told(numbers, 0, value);
        for (u32 warp = 1; warp < team.members / WARP; warp++) value = How::of(value, told(numbers, warp, value));
        wait_for_block();
    }
    return value;
}
