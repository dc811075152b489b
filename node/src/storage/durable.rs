//! Crash injection: tests kill the process between any two durable writes.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Environment variable: abort at this durable point, counted from 1.
const CRASH_AT: &str = "ONEBYTE_CRASH_AT";

/// Stands before and after every durable write. Costs an atomic addition unless a test asks for a crash.
pub fn point() {
    static LIMIT: OnceLock<Option<u64>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let passed = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    if *LIMIT.get_or_init(|| std::env::var(CRASH_AT).ok().and_then(|at| at.parse().ok())) == Some(passed) {
        std::process::abort();
    }
}
