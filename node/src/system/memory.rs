//! How much memory this machine has to spare.

use std::fs::read_to_string;

/// Bytes that programs may still take without swapping: what the system has, or what the control group that this
/// process runs in may have, whichever is less. None where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    let system = kilobytes(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(group_bytes().map_or(system, |group| group.min(system)))
}

/// Bytes that this process has in memory. None where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    kilobytes(&read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// What a container's limit leaves. Pages of files are given back when memory runs short.
fn group_bytes() -> Option<u64> {
    let read = |name: &str| read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let current: u64 = read("memory.current")?.trim().parse().ok()?;
    let statistics = read("memory.stat")?;
    let files = statistics.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse().unwrap_or(0);
    Some((limit + files).saturating_sub(current))
}

/// The number that `text` has after `name`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_writes_them() {
        let text = "MemTotal:       24576000 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(kilobytes(text, "MemAvailable:"), Some(1 << 20));
        assert_eq!(kilobytes(text, "MemFree:"), None);
    }
}
