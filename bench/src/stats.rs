//! Numbers out of samples: percentiles of latencies, median and spread of rounds.

use std::time::Duration;

use serde::Serialize;

/// Median, lowest and highest of the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// The spread of `values`; `None` when there are none. The median of an even number is the mean of the middle two.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, low, high })
    }
}

/// The nearest-rank percentile of `sorted`: the least sample that at least `percent` of all do not exceed.
#[must_use]
pub fn percentile<T: Copy>(sorted: &[T], percent: u32) -> Option<T> {
    let rank = (sorted.len() * percent as usize).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// `amount` for each second of `elapsed`.
#[must_use]
pub fn rate(amount: u64, elapsed: Duration) -> f64 {
    amount as f64 / elapsed.as_secs_f64().max(f64::EPSILON)
}

/// Milliseconds with their fraction.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let check = |count: u64, percent, expected: Option<u64>| {
            let sorted: Vec<Duration> = (1..=count).map(Duration::from_micros).collect();
            assert_eq!(percentile(&sorted, percent), expected.map(Duration::from_micros), "p{percent} of 1..={count}");
        };
        check(0, 50, None);
        check(1, 50, Some(1));
        check(1, 99, Some(1));
        check(5, 50, Some(3));
        check(6, 50, Some(3));
        check(100, 99, Some(99));
        check(101, 99, Some(100));
        check(1000, 99, Some(990));
        check(10, 100, Some(10));
        check(10, 0, Some(1));
    }

    #[test]
    fn a_spread_is_median_low_and_high() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[2.0]), Some(Spread { median: 2.0, low: 2.0, high: 2.0 }));
        assert_eq!(of(&[9.0, 1.0, 2.0]), Some(Spread { median: 2.0, low: 1.0, high: 9.0 }));
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, low: 1.0, high: 9.0 }));
    }

    #[test]
    fn a_rate_of_no_time_is_finite() {
        assert!(rate(1, Duration::ZERO).is_finite());
        assert_eq!(rate(30, Duration::from_secs(3)), 10.0);
    }
}
