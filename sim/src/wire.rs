//! What connections cost beside what goes over them, TCP payload bytes. Messages: `peer::framing`.

/// What one side of a new connection receives: encryption, multiplexing, identification, first discovery. Measured: six
/// nodes that know each other and do nothing received 32 kB each in their first three seconds, 2 kB of it counted
/// elsewhere.
pub const CONNECTION_BYTES: u64 = 6_000;
/// What one side of an idle connection receives: keep-alive (32 bytes and framing there and back, both ways, every 30
/// s).
pub const IDLE_BYTES_PER_SECOND: f64 = 8.0;
/// The same while a node has fewer neighbours than it wants and asks them for others every ten seconds. Measured: the
/// six nodes received 500 bytes a second each after that, keep-alive included.
pub const SEARCHING_BYTES_PER_SECOND: f64 = 100.0;
