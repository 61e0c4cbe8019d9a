//! One flush for all who ask for one before it begins: group commit (DeWitt and others, "Implementation Techniques for Main Memory
//! Database Systems", SIGMOD 1984).

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Flushes of one thing, such as a folder.
#[derive(Debug, Default)]
pub(crate) struct Group {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// How many flushes have begun, and which was the last that succeeded, counted from 1.
    begun: u64,
    done: u64,
}

impl Group {
    /// Returns once a flush has succeeded that began after this was called. It is the caller's own, or that of another caller, who
    /// waited for the same.
    ///
    /// # Errors
    /// Those of the caller's own flush; another's are not the caller's, who then tries.
    pub(crate) fn flush(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        let wanted = state.begun + 1;
        while state.running {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
            if state.done >= wanted {
                return Ok(());
            }
        }
        state.running = true;
        state.begun += 1;
        let number = state.begun;
        drop(state);
        let flushed = flush();
        let mut state = self.state();
        state.running = false;
        if flushed.is_ok() {
            state.done = number;
        }
        self.ended.notify_all();
        flushed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_caller_s_flush_begins_after_its_call_and_ends_before_the_answer() {
        let (group, clock, flushes) = (Group::default(), AtomicU64::new(0), Mutex::new(Vec::new()));
        let tick = || clock.fetch_add(1, Ordering::SeqCst);
        let calls = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for caller in 0..16 {
                let (group, flushes, calls, tick) = (&group, &flushes, &calls, &tick);
                scope.spawn(move || {
                    for round in 0..50 {
                        let asked = tick();
                        let answer = group.flush(|| {
                            let began = tick();
                            std::thread::sleep(Duration::from_micros(200));
                            // Some fail.
                            if (caller + round) % 7 == 0 {
                                return Err(io::Error::other("a full disk"));
                            }
                            flushes.lock().unwrap().push((began, tick()));
                            Ok(())
                        });
                        if answer.is_ok() {
                            calls.lock().unwrap().push((asked, tick()));
                        }
                    }
                });
            }
        });
        let (calls, flushes) = (calls.into_inner().unwrap(), flushes.into_inner().unwrap());
        for (asked, answered) in &calls {
            assert!(flushes.iter().any(|(began, ended)| began > asked && ended < answered), "{asked} to {answered}");
        }
        assert!(flushes.len() < calls.len(), "{} flushes served {} calls", flushes.len(), calls.len());
    }
}
