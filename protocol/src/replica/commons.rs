//! What the replicas of one process hold in common: who the machines are, and every ledger once.
//!
//! A node has one replica, and this is its index of machines. A simulator gives one [`Commons::shared`] to all its
//! replicas ([`super::Replica::sharing`]): then replicas with equal ledgers hold one allocation, and what one of them
//! has checked and hashed the others take over. All of them must be of one run, with one manifest.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{
    error::InvalidChunk,
    ledger::Ledger,
    machine::{Handle, MachineId},
    segment::{Chunk, Digest, VerifiedChunk},
    version_vector::BUCKETS,
};

/// Steps that are remembered before those that nobody can take any more are looked for.
const STEPS_MIN: usize = 1 << 12;
/// Hashes at which their memory is emptied, 64 bytes each.
const HASHES_MAX: usize = 1 << 20;

/// A machine's number: the same for all replicas that share a [`Commons`].
pub(super) type Slot = usize;

/// A ledger and whose it is. Immutable where it is shared.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub machine: MachineId,
    /// Of the version vector.
    pub bucket: u8,
    pub ledger: Ledger,
}

/// A ledger grew: what came, the part of it that was new, what it came to.
#[derive(Clone)]
pub(super) struct Step {
    pub came: Arc<Chunk>,
    pub news: Arc<Chunk>,
    pub after: Arc<Held>,
}

/// A [`Step`] as it is remembered, while somebody may still take it.
struct Remembered {
    /// None for an empty ledger.
    before: Option<Weak<Held>>,
    came: Arc<Chunk>,
    news: Arc<Chunk>,
    after: Weak<Held>,
}

/// Ledgers that replicas hold, and how they grew.
#[derive(Default)]
struct Ledgers {
    /// By the address of the ledger before (zero if it was empty) and the first bytes of the signature.
    steps: HashMap<(usize, [u8; 16]), Vec<Remembered>>,
    /// By head.
    held: HashMap<Digest, Vec<Weak<Held>>>,
    steps_max: usize,
    /// Hashes of buckets, by the sum of their heads.
    hashes: HashMap<u128, Digest>,
}

/// The machines, by number, name and order.
#[derive(Default)]
pub(super) struct Roster {
    slots: BTreeMap<MachineId, Slot>,
    handles: HashMap<Handle, Slot>,
    /// By the handle's first byte; each in order of the machines.
    buckets: Vec<Vec<(MachineId, Slot)>>,
}

#[derive(Default)]
struct Inner {
    roster: Mutex<Roster>,
    /// Only if it is meant for several replicas.
    ledgers: Option<Mutex<Ledgers>>,
}

/// See the module's documentation.
#[derive(Clone, Default)]
pub struct Commons(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Roster {
    pub fn slot(&self, machine: &MachineId) -> Option<Slot> {
        self.slots.get(machine).copied()
    }

    pub fn slot_of(&self, handle: &Handle) -> Option<Slot> {
        self.handles.get(handle).copied()
    }

    /// Gives a number to a machine that has none.
    pub fn enroll(&mut self, machine: &MachineId) -> Slot {
        let handle = machine.handle();
        let slot = self.slots.len();
        self.slots.insert(*machine, slot);
        self.handles.insert(handle, slot);
        self.buckets.resize_with(BUCKETS, Vec::new);
        let bucket = &mut self.buckets[usize::from(handle.0[0])];
        let place = bucket.partition_point(|(other, _)| other < machine);
        bucket.insert(place, (*machine, slot));
        slot
    }

    /// All, in their order.
    pub fn in_order(&self) -> impl Iterator<Item = (&MachineId, Slot)> {
        self.slots.iter().map(|(machine, slot)| (machine, *slot))
    }

    /// The incarnations of one key.
    pub fn of_key(&self, key: [u8; 32]) -> impl Iterator<Item = Slot> {
        let all = MachineId { key, incarnation: 0 }..=MachineId { key, incarnation: u64::MAX };
        self.slots.range(all).map(|(_, slot)| *slot)
    }

    /// Those of one bucket, in their order.
    pub fn bucket(&self, bucket: u8) -> &[(MachineId, Slot)] {
        self.buckets.get(usize::from(bucket)).map_or(&[], Vec::as_slice)
    }
}

impl Remembered {
    fn starts_at(&self, before: Option<&Arc<Held>>) -> bool {
        match (&self.before, before) {
            (Some(ours), Some(before)) => std::ptr::eq(ours.as_ptr(), Arc::as_ptr(before)),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether somebody holds the ledger before, or the one after.
    fn is_of_use(&self) -> bool {
        self.after.strong_count() > 0 && self.before.as_ref().is_none_or(|before| before.strong_count() > 0)
    }
}

fn key(before: Option<&Arc<Held>>, came: &Chunk) -> (usize, [u8; 16]) {
    let address = before.map_or(0, |before| Arc::as_ptr(before).addr());
    (address, std::array::from_fn(|index| came.signature.0[index]))
}

impl Ledgers {
    fn find(&self, before: Option<&Arc<Held>>, came: &Chunk) -> Option<Step> {
        let steps = self.steps.get(&key(before, came))?;
        let step = steps.iter().find(|step| step.starts_at(before) && *step.came == *came)?;
        let after = step.after.upgrade()?;
        Some(Step { came: step.came.clone(), news: step.news.clone(), after })
    }

    /// An equal ledger that somebody holds already, or else this one, which is known from now on.
    fn unify(&mut self, held: Arc<Held>) -> Arc<Held> {
        let equals = self.held.entry(held.ledger.head()).or_default();
        equals.retain(|other| other.strong_count() > 0);
        let mut known = equals.iter().filter_map(Weak::upgrade);
        if let Some(known) = known.find(|other| other.machine == held.machine && other.ledger == held.ledger) {
            return known;
        }
        equals.push(Arc::downgrade(&held));
        held
    }

    fn remember(&mut self, before: Option<&Arc<Held>>, step: &Step) {
        if self.steps.len() >= self.steps_max.max(STEPS_MIN) {
            self.steps.retain(|_, steps| {
                steps.retain(Remembered::is_of_use);
                !steps.is_empty()
            });
            self.held.retain(|_, equals| equals.iter().any(|other| other.strong_count() > 0));
            self.steps_max = 2 * self.steps.len();
        }
        let steps = self.steps.entry(key(before, &step.came)).or_default();
        steps.retain(Remembered::is_of_use);
        steps.push(Remembered {
            before: before.map(Arc::downgrade),
            came: step.came.clone(),
            news: step.news.clone(),
            after: Arc::downgrade(&step.after),
        });
    }
}

impl Commons {
    /// For several replicas of one run, on one thread or on many.
    pub fn shared() -> Self {
        Self(Arc::new(Inner { ledgers: Some(Mutex::default()), ..Inner::default() }))
    }

    pub(super) fn roster(&self) -> MutexGuard<'_, Roster> {
        lock(&self.0.roster)
    }

    /// The hash of a bucket without revocations whose heads sum up to `heads`, computed by the first replica that asks.
    pub(super) fn bucket_hash(&self, heads: u128, hash: impl FnOnce() -> Digest) -> Digest {
        let Some(ledgers) = &self.0.ledgers else { return hash() };
        if let Some(known) = lock(ledgers).hashes.get(&heads) {
            return *known;
        }
        let digest = hash();
        let mut ledgers = lock(ledgers);
        if ledgers.hashes.len() >= HASHES_MAX {
            ledgers.hashes.clear();
        }
        ledgers.hashes.insert(heads, digest);
        digest
    }

    /// What another replica came to when it held `before` and `came` came.
    pub(super) fn step(&self, before: Option<&Arc<Held>>, came: &Chunk) -> Option<Step> {
        lock(self.0.ledgers.as_ref()?).find(before, came)
    }

    /// Makes a ledger grow by `news`, a part of what `came`; replaced by an equal one that another replica holds.
    pub(super) fn append(
        &self,
        held: &mut Arc<Held>,
        came: Arc<Chunk>,
        news: VerifiedChunk,
    ) -> Result<(), InvalidChunk> {
        let before = self.0.ledgers.as_ref().map(|ledgers| (ledgers, held.clone()));
        let chunk = news.chunk().clone();
        // In place, unless others may hold this ledger, or a step that starts at it.
        let appended = Arc::make_mut(held).ledger.append(news);
        if let Some((ledgers, before)) = before {
            if appended.is_err() {
                *held = before;
                return appended.map(drop);
            }
            let mut ledgers = lock(ledgers);
            *held = ledgers.unify(held.clone());
            let before = Some(&before).filter(|before| before.ledger.height() > 0);
            ledgers.remember(before, &Step { came, news: chunk, after: held.clone() });
        }
        appended.map(drop)
    }
}
