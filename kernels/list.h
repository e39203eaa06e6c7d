// The kernels by name: src/backend/plan.rs has the same.

// The rules by their names in those of kernels.
typedef SoftPool softpool;
typedef Softmax softmax;
typedef Average average;
typedef Power power;
typedef Weighted weighted;
typedef Maximum maximum;

#define SPECIAL_softpool(T, I)                             \
    KERNEL(forward_2x2, T, I, forward_2x2<T, I>)           \
    KERNEL(forward_2x2x2, T, I, forward_2x2x2<T, I>)       \
    KERNEL(forward_3x3, T, I, forward_3x3<T, I>)           \
    KERNEL(backward_2x2, T, I, backward_2x2<T, I>)         \
    KERNEL(backward_2x2x2, T, I, backward_2x2x2<T, I>)     \
    KERNEL(backward_3x3, T, I, backward_3x3<T, I>)         \
    KERNEL(forward_tile, T, I, forward_tile<T, I>)         \
    KERNEL(statistics_tile, T, I, statistics_tile<T, I>)   \
    KERNEL(gather_tile, T, I, gather_tile<T, I>)
#define SPECIAL_softmax(T, I)
#define SPECIAL_average(T, I)
#define SPECIAL_power(T, I)
#define SPECIAL_weighted(T, I)
#define SPECIAL_maximum(T, I)

// Those of a rule: by a thread or a team a window.
#define KERNELS_OF(R, T, I)                                           \
    KERNEL(R##_forward, T, I, forward<R, 1, T, I>)                    \
    TEAM_KERNEL(R##_forward_team, T, I, forward<R, WARP, T, I>)       \
    KERNEL(R##_statistics, T, I, statistics<R, 1, T, I>)              \
    TEAM_KERNEL(R##_statistics_team, T, I, statistics<R, WARP, T, I>) \
    KERNEL(R##_disjoint, T, I, disjoint<R, 1, T, I>)                  \
    TEAM_KERNEL(R##_disjoint_team, T, I, disjoint<R, WARP, T, I>)     \
    KERNEL(R##_gather, T, I, gather<R, T, I>)                         \
    SPECIAL_##R(T, I)
// Its arguments may be macros themselves.
#define KERNELS(R, T, I) KERNELS_OF(R, T, I)
