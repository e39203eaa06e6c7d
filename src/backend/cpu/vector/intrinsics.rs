//! `vector!`, which makes a vector of an instruction set's intrinsics.

/// The functions that have the same form for every type, and then those that have not.
macro_rules! vector {
    (
        $name:ident: $register:ty, $lanes:literal of $real:ty, mask $mask:ty;
        splat $splat:ident, load $load:ident, store $store:ident,
        add $add:ident, sub $sub:ident, mul $mul:ident, div $div:ident, mul_add $mul_add:ident,
        max $max:ident, sqrt $sqrt:ident;
        power_of_two |$p:ident| $power:expr;
        greater |$g:ident, $h:ident| $greater:expr;
        equal |$e:ident, $f:ident| $equal:expr;
        and |$m:ident, $n:ident| $and:expr;
        or |$q:ident, $r:ident| $or:expr;
        select |$mask_name:ident, $yes:ident, $no:ident| $select:expr;
        all |$all_name:ident| $all:expr;
        $($special:item)*
    ) => {
        #[derive(Clone, Copy)]
        pub struct $name($register);

        // SAFETY, of every block below: the vectors are made in kernels alone, and those run where the machine has
        // the instruction set; memory is read and written through slices whose length is checked first.
        #[allow(unused_unsafe)] // Where every machine of the target has the set, its intrinsics are safe.
        impl Vector for $name {
            type Real = $real;
            type Mask = $mask;

            const LANES: usize = $lanes;

            #[inline(always)]
            fn splat(v: $real) -> Self {
                unsafe { Self($splat(v)) }
            }
            #[inline(always)]
            fn load(cells: &[$real]) -> Self {
                let cells = &cells[..$lanes];
                unsafe { Self($load(cells.as_ptr())) }
            }
            #[inline(always)]
            fn store(self, cells: &mut [$real]) {
                let cells = &mut cells[..$lanes];
                unsafe { $store(cells.as_mut_ptr(), self.0) }
            }
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                unsafe { Self($add(self.0, b.0)) }
            }
            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                unsafe { Self($sub(self.0, b.0)) }
            }
            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                unsafe { Self($mul(self.0, b.0)) }
            }
            #[inline(always)]
            fn div(self, b: Self) -> Self {
                unsafe { Self($div(self.0, b.0)) }
            }
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                unsafe { Self($mul_add(self.0, b.0, c.0)) }
            }
            #[inline(always)]
            fn max(self, b: Self) -> Self {
                unsafe { Self($max(self.0, b.0)) }
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                unsafe { Self($sqrt(self.0)) }
            }
            #[inline(always)]
            fn power_of_two(self) -> Self {
                let $p = self.0;
                unsafe { Self($power) }
            }
            #[inline(always)]
            fn greater(self, b: Self) -> $mask {
                let ($g, $h) = (self.0, b.0);
                unsafe { $greater }
            }
            #[inline(always)]
            fn equal(self, b: Self) -> $mask {
                let ($e, $f) = (self.0, b.0);
                unsafe { $equal }
            }
            #[inline(always)]
            fn and($m: $mask, $n: $mask) -> $mask {
                unsafe { $and }
            }
            #[inline(always)]
            fn or($q: $mask, $r: $mask) -> $mask {
                unsafe { $or }
            }
            #[inline(always)]
            fn select($mask_name: $mask, $yes: Self, $no: Self) -> Self {
                unsafe { Self($select) }
            }
            #[inline(always)]
            fn all($all_name: $mask) -> bool {
                unsafe { $all }
            }
            $($special)*
        }
    };
}
