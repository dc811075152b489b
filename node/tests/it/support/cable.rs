//! A cable with delay, loss and a limited rate, for kernels without netem: a TAP device in each of two network
//! namespaces, and threads that carry frames between them.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

/// What happens to frames on their way.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub delay: Duration,
    /// Of a thousand frames.
    pub lost: u64,
    pub bytes_per_second: f64,
}

/// Bytes that wait for the line at most, as in a home router.
const QUEUE_BYTES: f64 = 64.0 * 1024.0;
/// Largest frame.
const FRAME_BYTES_MAX: usize = 65_536;
/// Frames on their way are looked at this often.
const LOOK: Duration = Duration::from_millis(1);

/// `struct ifreq` of Linux, as far as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: libc::c_short,
    _rest: [u8; 22],
}

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TAP_WITHOUT_HEADER: libc::c_short = 0x0002 | 0x1000;

/// Frames flow as long as it lives.
pub struct Cable {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Cable {
    /// Between new interfaces of two namespaces, each (namespace, name). What is lost follows from `seed`.
    pub fn new(one: (String, &str), other: (String, &str), line: Line, seed: u64) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let (one, other) = (tap(one)?, tap(other)?);
        let ways = [(one.try_clone()?, other.try_clone()?), (other, one)];
        let carry = |(number, (from, to))| {
            let (ends, random) = (ends.clone(), Xoshiro256PlusPlus::seed_from_u64(seed ^ number as u64));
            std::thread::spawn(move || carry(from, to, line, random, &ends))
        };
        let threads = ways.into_iter().enumerate().map(carry).collect();
        Ok(Self { ends, threads })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A TAP device in a namespace. The thread that makes it lives there, and ends.
fn tap((space, name): (String, &str)) -> io::Result<File> {
    let mut request = Request { name: [0; 16], flags: TAP_WITHOUT_HEADER, _rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let work = move || {
        let space = File::open(format!("/run/netns/{space}"))?;
        // SAFETY: a call with plain numbers, about this thread alone.
        if unsafe { libc::setns(space.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: the request has the layout that the call reads, and outlives it; the descriptor is open.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
        // SAFETY: as above.
        let set = unsafe { libc::fcntl(device.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        if made != 0 || set != 0 { Err(io::Error::last_os_error()) } else { Ok(device) }
    };
    std::thread::spawn(work).join().expect("no panic")
}

/// One way.
fn carry(mut from: File, mut to: File, line: Line, mut random: Xoshiro256PlusPlus, ends: &AtomicBool) {
    let mut frame = vec![0; FRAME_BYTES_MAX];
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    // When the line is free again.
    let mut free = Instant::now();
    while !ends.load(Ordering::SeqCst) {
        let now = Instant::now();
        while under_way.front().is_some_and(|(at, _)| *at <= now) {
            // An interface that is down takes none.
            let _ = under_way.pop_front().map(|(_, frame)| to.write(&frame));
        }
        let Ok(bytes) = from.read(&mut frame) else {
            std::thread::sleep(LOOK);
            continue;
        };
        let waits = free.saturating_duration_since(now);
        if waits.as_secs_f64() * line.bytes_per_second > QUEUE_BYTES || random.next_u64() % 1_000 < line.lost {
            continue;
        }
        free = now + waits + Duration::from_secs_f64(bytes as f64 / line.bytes_per_second);
        under_way.push_back((free + line.delay, frame[..bytes].to_vec()));
    }
}
