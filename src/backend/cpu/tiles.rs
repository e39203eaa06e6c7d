//! Bands in the order of their cells in memory, handed out to threads some at a time.

use super::plan::{Plan, SERIAL_CELLS, TASK_CELLS};
use std::any::Any;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Cells that lie side by side in memory: some whole planes, or some depths, rows or columns of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    pub planes: Range<usize>,
    pub depths: Range<usize>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Band {
    pub fn cells(&self) -> usize {
        self.planes.len() * self.depths.len() * self.rows.len() * self.columns.len()
    }
}

/// What is cut into bands: planes of so many depths, rows and columns.
#[derive(Clone, Copy, Debug)]
pub struct Tiling {
    pub planes: usize,
    pub sizes: [usize; 3],
    pub plan: Plan,
    /// Activations that are read.
    pub work: usize,
    /// Whether threads keep their scratch memory for the next call.
    pub keep: bool,
}

impl Tiling {
    /// Bands along the planes, depths, rows and columns.
    fn counts(&self) -> [usize; 4] {
        let [depths, rows, columns] = self.sizes;
        [
            self.planes.div_ceil(self.plan.planes),
            depths.div_ceil(self.plan.depths),
            rows.div_ceil(self.plan.rows),
            columns.div_ceil(self.plan.columns),
        ]
    }

    fn band(&self, index: usize) -> Band {
        let [_, depths, rows, columns] = self.counts();
        let piece = |at: usize, size: usize, len: usize| at * size..len.min((at + 1) * size);
        let plan = self.plan;
        Band {
            planes: piece(index / columns / rows / depths, plan.planes, self.planes),
            depths: piece(index / columns / rows % depths, plan.depths, self.sizes[0]),
            rows: piece(index / columns % rows, plan.rows, self.sizes[1]),
            columns: piece(index % columns, plan.columns, self.sizes[2]),
        }
    }

    /// The cells that `work` fills, band by band, on all threads if there is enough to do; `None` without memory.
    /// There are as many again behind them if there are `two` outputs.
    ///
    /// # Safety
    ///
    /// `work` must write all cells that it is given.
    pub unsafe fn run<T: Send, S: Default + 'static>(
        self,
        two: bool,
        work: impl Fn(&mut S, &[Band], [&mut [MaybeUninit<T>]; 2]) + Send + Sync,
    ) -> Option<Vec<T>> {
        let cells = self
            .sizes
            .iter()
            .try_fold(self.planes, |n, &m| n.checked_mul(m))?;
        let all = cells.checked_mul(if two { 2 } else { 1 })?;
        let mut output = Vec::new();
        output.try_reserve_exact(all).ok()?;
        let bands: usize = self.counts().iter().product();
        let threads = match self.work {
            0..SERIAL_CELLS => 1,
            _ => rayon::current_num_threads().min(bands),
        };
        let of_band = match bands {
            0 => 1,
            _ => self.band(0).cells(),
        };
        let of_task = (TASK_CELLS / of_band).clamp(1, bands.div_ceil(4 * threads).max(1));
        let (first, second) = output.spare_capacity_mut()[..all].split_at_mut(cells);
        let rest = Mutex::new(Rest {
            next: 0,
            cells: [first, second],
        });
        share(threads, || {
            let mut scratch = take_scratch::<S>();
            let mut some = Vec::new();
            loop {
                let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
                some.clear();
                some.extend((rest.next..bands.min(rest.next + of_task)).map(|i| self.band(i)));
                rest.next += some.len();
                let count: usize = some.iter().map(Band::cells).sum();
                let [mut first, mut second] = std::mem::take(&mut rest.cells);
                let mine = [
                    first.split_off_mut(..count).unwrap_or_default(),
                    second
                        .split_off_mut(..count.min(second.len()))
                        .unwrap_or_default(),
                ];
                rest.cells = [first, second];
                drop(rest);
                if some.is_empty() {
                    break;
                }
                work(&mut scratch, &some, mine);
            }
            if self.keep {
                keep_scratch(scratch);
            }
        });
        // SAFETY: the bands are all of these cells, and the caller has each written.
        unsafe { output.set_len(all) };
        Some(output)
    }
}

/// What no thread has taken yet.
struct Rest<'a, T> {
    next: usize,
    cells: [&'a mut [MaybeUninit<T>]; 2],
}

/// Runs `work` on so many threads, the calling one among them, so that it begins at once; it returns when all have
/// found nothing left.
fn share(threads: usize, work: impl Fn() + Sync) {
    if threads <= 1 {
        return work();
    }
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
}

thread_local! {
    /// Scratch memory of this thread, one of a type: a small call would take longer to be given new pages than to pool.
    static KEPT: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Scratch memory that an earlier call has left, whatever is in it, or new.
fn take_scratch<S: Default + 'static>() -> Box<S> {
    let kept = KEPT.with_borrow_mut(|all| {
        let index = all.iter().position(|kept| kept.is::<S>())?;
        all.swap_remove(index).downcast().ok()
    });
    kept.unwrap_or_default()
}

/// Leaves it to the next call on this thread.
fn keep_scratch<S: 'static>(scratch: Box<S>) {
    KEPT.with_borrow_mut(|all| {
        // Another call may have run on this thread in the meantime, while this one waited.
        if !all.iter().any(|kept| kept.is::<S>()) {
            all.push(scratch);
        }
    });
}
