//! The peer's own time.

/// Counts what passes between one input and the next. So a shell's clock that steps back costs nothing: no pause begins
/// anew, no ban lasts longer. One that leaps ahead lets all pauses end at once.
#[derive(Default)]
pub struct Clock {
    now_ms: u64,
    /// What the shell said last.
    told_ms: u64,
}

impl Clock {
    /// The shell says that it is `told_ms`. Returns the peer's time, which never falls.
    pub fn advance(&mut self, told_ms: u64) -> u64 {
        self.now_ms = self.now_ms.saturating_add(told_ms.saturating_sub(self.told_ms));
        self.told_ms = told_ms;
        self.now_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_back_stands_still_and_time_goes_on_from_there() {
        let mut clock = Clock::default();
        let told = [5, 100, 40, 41, 1_000, u64::MAX, 7, u64::MAX];
        let expected = [5, 100, 100, 101, 1_060, u64::MAX, u64::MAX, u64::MAX];
        assert_eq!(told.map(|told_ms| clock.advance(told_ms)), expected);
    }
}
