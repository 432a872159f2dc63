//! What was measured: printed a line a figure, and kept for `target/bench.json`.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// All figures of a run.
#[derive(Default)]
pub struct Figures(Map<String, Value>);

impl Figures {
    /// Prints and keeps one.
    pub fn add(&mut self, name: &str, value: f64, unit: &str) {
        println!("{name} {value:.3} {unit}");
        self.0.insert(name.to_owned(), json!({ "value": value, "unit": unit }));
    }

    /// Median and 95th percentile of some times, in ms; answers the two.
    pub fn times(&mut self, name: &str, times: &mut [Duration]) -> (f64, f64) {
        times.sort_unstable();
        let at = |percent: usize| {
            let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        let (median, p95) = (at(50), at(95));
        self.add(&format!("{name}_median"), median, "ms");
        self.add(&format!("{name}_p95"), p95, "ms");
        (median, p95)
    }

    /// Writes `target/bench.json`.
    pub fn write(self) -> Result<()> {
        let target = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        std::fs::create_dir_all(&target)?;
        let text = serde_json::to_string_pretty(&Value::Object(self.0))?;
        std::fs::write(target.join("bench.json"), text + "\n").context("write target/bench.json")
    }
}
