//! What libvirt measures of one domain: its bulk statistics as one value. Blocking calls, for the pool of `calls`.

use std::collections::HashMap;
use std::ffi::CStr;

use jiff::Timestamp;
use kvmoor_crds::agent::{CpuStats, DiskStats, MemoryStats, NetworkStats, Stats};
use virt::connect::Connect;
use virt::domain::Domain;
use virt_sys as sys;

use super::super::HvError;
use super::{domain, error};

const WHAT: u32 = sys::VIR_DOMAIN_STATS_STATE
    | sys::VIR_DOMAIN_STATS_CPU_TOTAL
    | sys::VIR_DOMAIN_STATS_BALLOON
    | sys::VIR_DOMAIN_STATS_VCPU
    | sys::VIR_DOMAIN_STATS_INTERFACE
    | sys::VIR_DOMAIN_STATS_BLOCK;
/// What another job on the domain would make us wait for is left out.
const FLAGS: u32 = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
/// More disks or interfaces than this no domain of ours has.
const MOST: u64 = 64;
const OP: &str = "measure the domain";

/// The statistics of a domain of ours, without the share of CPU, which takes two of them; `None` where there is none.
pub fn measure(connect: &Connect, uid: &str) -> Result<Option<Stats>, HvError> {
    let Some((domain, metadata)) = domain::ours(connect, uid)? else { return Ok(None) };
    let info = domain.info().map_err(|source| error::from(OP, &source))?;
    let mut stats = from_fields(&fields(&domain)?);
    // Without cgroups the bulk statistics have no CPU time.
    stats.cpu.time_ns = stats.cpu.time_ns.max(info.cpu_time);
    stats.cpu.count = info.nr_virt_cpu;
    if stats.memory.total == 0 {
        stats.memory.total = info.max_mem.saturating_mul(1024);
    }
    if stats.active {
        let started = metadata.started_at.unwrap_or_else(|| Timestamp::now().as_millisecond());
        let running = Timestamp::now().as_millisecond().saturating_sub(started);
        stats.uptime_seconds = u64::try_from(running).unwrap_or_default() / 1000;
    }
    Ok(Some(stats))
}

/// A value of libvirt's typed parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    Text(String),
}

type Fields = HashMap<String, Value>;

fn from_fields(fields: &Fields) -> Stats {
    let number = |key: &str| match fields.get(key) {
        Some(Value::Number(number)) => Some(*number),
        _ => None,
    };
    let text = |key: &str| match fields.get(key) {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    };
    let kib = |key: &str| number(key).map(|kib| kib.saturating_mul(1024));
    let state = number("state.state").unwrap_or_default();
    let active = is_active(state);
    let total = kib("balloon.current").unwrap_or_default();
    let resident = kib("balloon.rss").unwrap_or_default();
    // What the guest says it has, less than the total by what its kernel keeps, and what of it is free for programs.
    let free = kib("balloon.usable").or_else(|| kib("balloon.unused"));
    let by_guest = kib("balloon.available").zip(free).map(|(has, free)| has.saturating_sub(free));
    let memory = MemoryStats { used: by_guest.unwrap_or_else(|| resident.min(total)), total, resident };
    let disks = (0..number("block.count").unwrap_or_default().min(MOST)).filter_map(|index| {
        let field = |what: &str| format!("block.{index}.{what}");
        let count = |what: &str| number(&field(what)).unwrap_or_default();
        Some(DiskStats {
            // A disk that is not counted was left out because libvirt is busy.
            read_bytes: number(&field("rd.bytes"))?,
            name: text(&field("name")),
            read_ops: count("rd.reqs"),
            write_bytes: count("wr.bytes"),
            write_ops: count("wr.reqs"),
            capacity: count("capacity"),
            allocation: count("physical").max(count("allocation")),
        })
    });
    let networks = (0..number("net.count").unwrap_or_default().min(MOST)).map(|index| {
        let field = |what: &str| format!("net.{index}.{what}");
        let count = |what: &str| number(&field(what)).unwrap_or_default();
        NetworkStats {
            name: text(&field("name")),
            rx_bytes: count("rx.bytes"),
            rx_packets: count("rx.pkts"),
            rx_errors: count("rx.errs"),
            rx_dropped: count("rx.drop"),
            tx_bytes: count("tx.bytes"),
            tx_packets: count("tx.pkts"),
            tx_errors: count("tx.errs"),
            tx_dropped: count("tx.drop"),
        }
    });
    Stats {
        state: state_name(state).to_owned(),
        active,
        uptime_seconds: 0,
        cpu: CpuStats { percent: 0.0, time_ns: number("cpu.time").unwrap_or_default(), count: 0 },
        memory: if active { memory } else { MemoryStats { total, ..MemoryStats::default() } },
        disks: if active { disks.collect() } else { Vec::new() },
        networks: if active { networks.collect() } else { Vec::new() },
    }
}

fn is_active(state: u64) -> bool {
    ![sys::VIR_DOMAIN_NOSTATE, sys::VIR_DOMAIN_SHUTOFF].iter().any(|off| u64::from(*off) == state)
}

/// The word that `virsh domstate` prints.
fn state_name(state: u64) -> &'static str {
    const NAMES: [&str; 8] =
        ["no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended"];
    usize::try_from(state).ok().and_then(|state| NAMES.get(state)).copied().unwrap_or("no state")
}

fn fields(domain: &Domain) -> Result<Fields, HvError> {
    // SAFETY: the pointer is used only while the domain is borrowed.
    let mut domains = [unsafe { domain.as_ptr() }, std::ptr::null_mut()];
    let mut records: *mut sys::virDomainStatsRecordPtr = std::ptr::null_mut();
    // SAFETY: the list of domains ends with null, and the domain outlives the call.
    let count = unsafe { sys::virDomainListGetStats(domains.as_mut_ptr(), WHAT, &raw mut records, FLAGS) };
    if count < 0 || records.is_null() {
        return Err(error::from(OP, &virt::error::Error::last_error()));
    }
    let mut fields = Fields::new();
    // SAFETY: libvirt returned `count` records, which nobody changes until they are freed below.
    let all = unsafe { std::slice::from_raw_parts(records, usize::try_from(count).unwrap_or_default()) };
    for record in all {
        // SAFETY: a record of the list is valid, and so are its `nparams` parameters.
        let parameters = unsafe {
            let record = &**record;
            if record.params.is_null() {
                &[]
            } else {
                std::slice::from_raw_parts(record.params, usize::try_from(record.nparams).unwrap_or_default())
            }
        };
        fields.extend(parameters.iter().filter_map(read));
    }
    // SAFETY: it is what virDomainListGetStats returned, and nothing refers to it any more.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(fields)
}

/// The name and value of a parameter that is a text.
pub fn text(parameter: &sys::virTypedParameter) -> Option<(String, String)> {
    match read(parameter)? {
        (name, Value::Text(text)) => Some((name, text)),
        (_, Value::Number(_)) => None,
    }
}

fn read(parameter: &sys::virTypedParameter) -> Option<(String, Value)> {
    // SAFETY: libvirt ends the name within the array by NUL.
    let name = unsafe { CStr::from_ptr(parameter.field.as_ptr()) }.to_str().ok()?.to_owned();
    let kind = u32::try_from(parameter.type_).ok()?;
    // SAFETY: the type says which member of the union is set; a string is NUL-terminated.
    let value = unsafe {
        match kind {
            sys::VIR_TYPED_PARAM_INT => Value::Number(u64::try_from(parameter.value.i).unwrap_or_default()),
            sys::VIR_TYPED_PARAM_UINT => Value::Number(u64::from(parameter.value.ui)),
            sys::VIR_TYPED_PARAM_LLONG => Value::Number(u64::try_from(parameter.value.l).unwrap_or_default()),
            sys::VIR_TYPED_PARAM_ULLONG => Value::Number(parameter.value.ul),
            sys::VIR_TYPED_PARAM_STRING if !parameter.value.s.is_null() => {
                Value::Text(CStr::from_ptr(parameter.value.s).to_string_lossy().into_owned())
            }
            _ => return None,
        }
    };
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(numbers: &[(&str, u64)], texts: &[(&str, &str)]) -> Stats {
        let numbers = numbers.iter().map(|(key, value)| ((*key).to_owned(), Value::Number(*value)));
        let texts = texts.iter().map(|(key, value)| ((*key).to_owned(), Value::Text((*value).to_owned())));
        from_fields(&numbers.chain(texts).collect())
    }

    #[test]
    fn memory_is_the_guests_own_account_where_there_is_one() {
        let host = [("state.state", 1), ("balloon.current", 1000), ("balloon.rss", 1200)];
        assert_eq!(given(&host, &[]).memory, MemoryStats { used: 1_024_000, total: 1_024_000, resident: 1_228_800 });
        let guest = [host.as_slice(), &[("balloon.available", 900), ("balloon.unused", 100)]].concat();
        assert_eq!(given(&guest, &[]).memory.used, 800 * 1024);
        let usable = [guest.as_slice(), &[("balloon.usable", 600)]].concat();
        assert_eq!(given(&usable, &[]).memory.used, 300 * 1024);
    }

    #[test]
    fn a_disk_that_was_not_counted_is_left_out() {
        let numbers = [("state.state", 1), ("block.count", 2), ("block.1.rd.bytes", 7), ("net.count", 1)];
        let stats = given(&numbers, &[("block.0.name", "vda"), ("block.1.name", "vdb"), ("net.0.name", "vnet0")]);
        assert_eq!(stats.disks, [DiskStats { name: "vdb".into(), read_bytes: 7, ..DiskStats::default() }]);
        assert_eq!(stats.networks, [NetworkStats { name: "vnet0".into(), ..NetworkStats::default() }]);
    }

    #[test]
    fn nothing_is_measured_of_what_is_off() {
        let stats = given(&[("state.state", 5), ("balloon.current", 4), ("balloon.rss", 1), ("net.count", 1)], &[]);
        assert_eq!((stats.state.as_str(), stats.active), ("shut off", false));
        assert_eq!((stats.memory.used, stats.memory.total, stats.networks.len()), (0, 4096, 0));
    }
}
