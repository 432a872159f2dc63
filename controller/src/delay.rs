//! Delays that double, for all that is tried again.

use std::time::Duration;

/// The delay after that many failures: `first` after one, and twice as long after each further one, up to `longest`.
pub fn doubled(first: Duration, failures: u32, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest() {
        let after = |failures| doubled(Duration::from_secs(1), failures, Duration::from_secs(300)).as_secs();
        assert_eq!(
            [after(0), after(1), after(2), after(4), after(9), after(10), after(u32::MAX)],
            [1, 1, 2, 8, 256, 300, 300]
        );
    }
}
