//! Mutexes that a thread takes in one order: the table of files, then the tree, then the state of a file. Two threads that
//! take two of them in opposite orders wait for each other for ever. Where assertions are on, whoever takes one out of order
//! panics, so that a test finds it without the other thread.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a mutex guards; a thread that holds one takes only later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The table of files.
    Files,
    /// The tree.
    Tree,
    /// The state of a file: of one at a time.
    State,
}

/// A mutex that is held.
#[derive(Debug)]
pub struct Held<'m, T> {
    guard: MutexGuard<'m, T>,
    #[cfg(debug_assertions)]
    _taken: checked::Taken,
}

impl<'m, T> Held<'m, T> {
    /// Waits for the mutex. A thread that panicked with it leaves what it was at.
    pub fn take(mutex: &'m Mutex<T>, rank: Rank) -> Self {
        #[cfg(debug_assertions)]
        let taken = checked::Taken::take(rank);
        #[cfg(not(debug_assertions))]
        let _ = rank;
        Self {
            guard: mutex.lock().unwrap_or_else(PoisonError::into_inner),
            #[cfg(debug_assertions)]
            _taken: taken,
        }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(debug_assertions)]
mod checked {
    use std::cell::RefCell;

    use super::Rank;

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    /// This thread holds a mutex of this rank, until it is dropped.
    #[derive(Debug)]
    pub(super) struct Taken(Rank);

    impl Taken {
        pub(super) fn take(rank: Rank) -> Self {
            HELD.with_borrow_mut(|held| {
                assert!(held.iter().all(|other| *other < rank), "{rank:?} is taken by a thread that holds {held:?}");
                held.push(rank);
            });
            Self(rank)
        }
    }

    impl Drop for Taken {
        fn drop(&mut self) {
            HELD.with_borrow_mut(|held| held.retain(|rank| *rank != self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutexes_are_taken_in_order() {
        let (files, tree) = (Mutex::new(()), Mutex::new(()));
        let first = Held::take(&files, Rank::Files);
        drop(Held::take(&tree, Rank::Tree));
        let second = Held::take(&tree, Rank::Tree);
        drop((first, second));
        drop(Held::take(&files, Rank::Files));
    }

    #[test]
    #[should_panic(expected = "Files is taken by a thread that holds [Tree]")]
    fn one_that_is_taken_out_of_order_is_noticed_without_another_thread() {
        let (files, tree) = (Mutex::new(()), Mutex::new(()));
        let _tree = Held::take(&tree, Rank::Tree);
        drop(Held::take(&files, Rank::Files));
    }
}
