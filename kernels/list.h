// The kernels by name: src/backend/plan.rs has the same.

#define KERNELS(T, I) \
    KERNEL(forward_2x2, T, I) \
    KERNEL(forward_3x3, T, I) \
    KERNEL(forward_any, T, I) \
    KERNEL(partials, T, I) \
    KERNEL(forward_parts, T, I) \
    KERNEL(backward_2x2, T, I) \
    KERNEL(backward_3x3, T, I) \
    KERNEL(backward_disjoint, T, I) \
    KERNEL(statistics, T, I) \
    KERNEL(statistics_parts, T, I) \
    KERNEL(backward_gather, T, I)
