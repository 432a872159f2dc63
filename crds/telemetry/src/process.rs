//! The process itself: what it takes of the machine.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads them when they are asked for. What cannot be read is left out.
#[derive(Debug)]
pub struct Process {
    started: f64,
}

impl Process {
    /// This process, which starts now.
    pub fn new() -> Self {
        Self { started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let start = ConstGauge::new(self.started);
        let help = "When the process was started, in seconds since 1970";
        let unit = Some(&Unit::Seconds);
        start.encode(encoder.encode_descriptor("process_start_time", help, unit, MetricType::Gauge)?)?;
        if let Some(resident) = resident() {
            let (resident, help) = (ConstGauge::new(resident), "Memory that the process has in RAM");
            let unit = Some(&Unit::Bytes);
            resident.encode(encoder.encode_descriptor("process_resident_memory", help, unit, MetricType::Gauge)?)?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd").map(Iterator::count) {
            let (open, help) = (ConstGauge::new(i64::try_from(open).unwrap_or(i64::MAX)), "Open file descriptors");
            open.encode(encoder.encode_descriptor("process_open_fds", help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

fn resident() -> Option<i64> {
    resident_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_of(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_bytes() {
        assert_eq!(resident_of("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t3\n"), Some(2 << 20));
        assert_eq!(resident_of("Name:\tx\n"), None);
    }
}
