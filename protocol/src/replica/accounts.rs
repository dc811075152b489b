//! The ledgers that one replica holds, and the version vector that follows from them.

use std::{cell::OnceCell, collections::BTreeMap, sync::Arc};

use super::commons::{Commons, Held, Roster, Slot, Step};
use crate::{
    error::InvalidChunk,
    ledger::Ledger,
    machine::{Handle, MachineId},
    manifest::{Manifest, RunId, combine_digests},
    member::Member,
    revocation::Revocation,
    segment::{Chunk, Digest, VerifiedChunk},
    version_vector::{BUCKETS, Entry, Standing, hash_bucket},
};

/// Accounts that are allocated together.
const PAGE: usize = 64;

/// What is known of one machine.
pub(super) struct Account {
    held: Arc<Held>,
    /// Rare: a pointer takes less room where there is none.
    limit: Option<Box<Limit>>,
    /// Samples that are in the weights: `0..applied`.
    pub applied: u64,
}

/// Why not all samples of a machine may count.
struct Limit {
    revocation: Option<Revocation>,
    /// Samples below this may count, as far as membership goes.
    allowed: u64,
    standing: Option<Standing>,
}

impl Account {
    pub fn machine(&self) -> &MachineId {
        &self.held.machine
    }

    pub fn ledger(&self) -> &Ledger {
        &self.held.ledger
    }

    pub fn revocation(&self) -> Option<&Revocation> {
        self.limit.as_deref().and_then(|limit| limit.revocation.as_ref())
    }

    /// First sample that does not count.
    pub fn floor(&self) -> u64 {
        let floor = |limit: &Limit| limit.revocation.as_ref().map_or(u64::MAX, Revocation::floor).min(limit.allowed);
        self.limit.as_deref().map_or(u64::MAX, floor)
    }

    /// Samples that count.
    pub fn effective_height(&self) -> u64 {
        self.ledger().height().min(self.floor())
    }

    pub fn is_forked(&self) -> bool {
        self.revocation().is_some_and(Revocation::is_fork)
    }

    /// See [`crate::version_vector`] for who has none.
    pub fn standing(&self) -> Option<Standing> {
        match self.limit.as_deref() {
            Some(limit) => limit.standing,
            None => live(self.ledger()),
        }
    }

    /// The first half of the head's digest.
    fn head(&self) -> u128 {
        let head = self.ledger().head();
        u128::from_le_bytes(std::array::from_fn(|index| head[index]))
    }

    fn stands(&self) -> bool {
        self.standing().is_some()
    }

    /// Changes what may count; without a limit there is none.
    fn restrict(&mut self, change: impl FnOnce(&mut Limit)) {
        let none = || Box::new(Limit { revocation: None, allowed: u64::MAX, standing: None });
        let mut limit = self.limit.take().unwrap_or_else(none);
        change(&mut limit);
        self.limit = Some(limit).filter(|limit| limit.revocation.is_some() || limit.allowed < u64::MAX);
    }

    /// Anew, after the ledger grew or the limit changed.
    fn restate(&mut self, run: &RunId) {
        let Some(limit) = &mut self.limit else { return };
        let ledger = &self.held.ledger;
        let below = |floor: u64| {
            let height = ledger.height().min(floor);
            Standing::Revoked { floor, height, head: ledger.digest_at(run, height).unwrap_or_default() }
        };
        limit.standing = match &limit.revocation {
            _ if limit.allowed == 0 => None,
            Some(Revocation::Fork(_)) => Some(Standing::Forked),
            Some(Revocation::Authority { from, .. }) if *from < limit.allowed => Some(below(*from)),
            _ if limit.allowed == u64::MAX => live(ledger),
            _ => Some(below(limit.allowed)).filter(|standing| standing.height() > 0),
        };
    }
}

fn live(ledger: &Ledger) -> Option<Standing> {
    let height = ledger.height();
    (height > 0).then(|| Standing::Live { height, head: ledger.head() })
}

/// How a ledger grew.
pub(super) struct Growth {
    /// What was new.
    pub news: Arc<Chunk>,
    /// The chunk that was sealed by it.
    pub sealed: Option<Arc<Chunk>>,
    /// Chunks that began with it.
    pub new_chunks: usize,
}

type Page = [Option<Account>; PAGE];

/// See the module's documentation.
pub(super) struct Accounts {
    commons: Commons,
    manifest: Arc<Manifest>,
    /// Keys of which the authority said something.
    members: BTreeMap<[u8; 32], Member>,
    /// By slot.
    pages: Vec<Option<Box<Page>>>,
    count: usize,
    /// Machines with a standing.
    machines: usize,
    /// Samples that count.
    samples: u64,
    /// How often a ledger, a revocation or a member has changed.
    revision: u64,
    /// Hashes of the buckets and of the vector, computed when they are first asked for after a change.
    hashes: Vec<OnceCell<Digest>>,
    /// The sum of each bucket's heads, of 16 bytes each: names what it holds, as long as all samples count and no key
    /// is a member by word of the authority.
    heads: Vec<u128>,
    /// Accounts with a limit.
    limited: usize,
    root: OnceCell<Digest>,
}

impl Accounts {
    pub fn new(commons: Commons, manifest: Arc<Manifest>) -> Self {
        Self {
            commons,
            manifest,
            members: BTreeMap::new(),
            pages: Vec::new(),
            count: 0,
            machines: 0,
            samples: 0,
            revision: 0,
            hashes: vec![OnceCell::new(); BUCKETS],
            heads: vec![0; BUCKETS],
            limited: 0,
            root: OnceCell::new(),
        }
    }

    /// Machines of which anything is known.
    pub fn len(&self) -> usize {
        self.count
    }

    fn at(&self, slot: Slot) -> Option<&Account> {
        self.pages.get(slot / PAGE)?.as_deref()?[slot % PAGE].as_ref()
    }

    fn at_mut(&mut self, slot: Slot) -> Option<&mut Account> {
        self.pages.get_mut(slot / PAGE)?.as_deref_mut()?[slot % PAGE].as_mut()
    }

    pub fn get(&self, machine: &MachineId) -> Option<&Account> {
        let slot = self.commons.roster().slot(machine)?;
        self.at(slot)
    }

    pub fn get_mut(&mut self, machine: &MachineId) -> Option<&mut Account> {
        let slot = self.commons.roster().slot(machine)?;
        self.at_mut(slot)
    }

    pub fn by_handle(&self, handle: &Handle) -> Option<&Account> {
        let slot = self.commons.roster().slot_of(handle)?;
        self.at(slot)
    }

    /// All, in order of the machines.
    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        let slots: Vec<Slot> = self.commons.roster().in_order().map(|(_, slot)| slot).collect();
        slots.into_iter().filter_map(|slot| self.at(slot))
    }

    /// The incarnations of one key.
    pub fn of_key(&self, key: [u8; 32]) -> impl Iterator<Item = &Account> {
        let slots: Vec<Slot> = self.commons.roster().of_key(key).collect();
        slots.into_iter().filter_map(|slot| self.at(slot))
    }

    /// What the authority said of a key.
    pub fn member(&self, key: &[u8; 32]) -> Option<&Member> {
        self.members.get(key)
    }

    /// Keys of which the authority said something, in order.
    pub fn members(&self) -> &BTreeMap<[u8; 32], Member> {
        &self.members
    }

    /// Samples of a machine below this may count, as far as membership goes.
    pub fn allowed(&self, machine: &MachineId) -> u64 {
        match self.members.get(&machine.key) {
            _ if !self.manifest.admits(machine) => 0,
            Some(member) => member.floor(machine.incarnation),
            None if self.manifest.needs_admission(&machine.key) => 0,
            None => u64::MAX,
        }
    }

    /// Whether machines of this key may not contribute only because no admission of it is here.
    pub fn awaits_admission(&self, key: &[u8; 32]) -> bool {
        self.manifest.needs_admission(key) && !self.members.contains_key(key)
    }

    /// Takes what the authority said of a key into force. Returns the key's machines.
    pub fn set_member(&mut self, run: &RunId, key: [u8; 32], member: Member) -> Vec<MachineId> {
        self.members.insert(key, member);
        let machines: Vec<MachineId> = self.of_key(key).map(|account| *account.machine()).collect();
        for machine in &machines {
            let allowed = self.allowed(machine);
            self.change(machine, run, |account| account.restrict(|limit| limit.allowed = allowed));
        }
        self.hashes[usize::from(key[0])].take();
        self.root.take();
        self.revision += 1;
        machines
    }

    /// Calls `visit` with what is known of each of `machines`.
    pub fn look_up<'a>(
        &self,
        machines: impl Iterator<Item = &'a MachineId>,
        mut visit: impl FnMut(&'a MachineId, Option<&Account>),
    ) {
        let roster = self.commons.roster();
        for machine in machines {
            visit(machine, roster.slot(machine).and_then(|slot| self.at(slot)));
        }
    }

    /// What another replica made of `came`, if it stood where this one stands.
    pub fn known_step(&self, came: &Chunk) -> Option<Step> {
        let before = self.get(&came.machine).map(|account| &account.held);
        self.commons.step(before.filter(|held| held.ledger.height() > 0), came)
    }

    /// Takes a step that another replica took.
    pub fn take_step(&mut self, run: &RunId, step: Step) -> Growth {
        self.change(&step.came.machine, run, |account| {
            let chunks_before = account.ledger().chunks().len();
            account.held = step.after;
            growth(chunks_before, account.ledger(), step.news)
        })
    }

    /// Appends to a ledger. `came` is what brought it.
    pub fn append(&mut self, run: &RunId, came: Arc<Chunk>, news: VerifiedChunk) -> Result<Growth, InvalidChunk> {
        let commons = self.commons.clone();
        self.change(&came.machine.clone(), run, |account| {
            let chunks_before = account.ledger().chunks().len();
            let chunk = news.chunk().clone();
            commons.append(&mut account.held, came, news)?;
            Ok(growth(chunks_before, account.ledger(), chunk))
        })
    }

    /// Brings a revocation into force. Returns the samples that counted before.
    pub fn revoke(&mut self, run: &RunId, revocation: Revocation) -> u64 {
        self.change(&revocation.machine(), run, |account| {
            let was = account.effective_height();
            account.restrict(|limit| limit.revocation = Some(revocation));
            was
        })
    }

    /// Changes the account of a machine, which is opened if there is none, and what follows from it.
    fn change<T>(&mut self, machine: &MachineId, run: &RunId, change: impl FnOnce(&mut Account) -> T) -> T {
        let slot = self.open(machine);
        let allowed = self.allowed(machine);
        let was_limited = self.at(slot).is_some_and(|account| account.limit.is_some());
        let page = self.pages[slot / PAGE].get_or_insert_with(|| Box::new([const { None }; PAGE]));
        let account = page[slot % PAGE].get_or_insert_with(|| {
            self.count += 1;
            let bucket = machine.handle().0[0];
            let held = Arc::new(Held { machine: *machine, bucket, ledger: Ledger::default() });
            let mut account = Account { held, limit: None, applied: 0 };
            account.restrict(|limit| limit.allowed = allowed);
            account
        });
        let (stood, height) = (account.stands(), account.effective_height());
        let head = account.head();
        let result = change(account);
        account.restate(run);
        self.machines = self.machines + usize::from(account.stands()) - usize::from(stood);
        self.samples = self.samples.saturating_sub(height).saturating_add(account.effective_height());
        self.limited = self.limited + usize::from(account.limit.is_some()) - usize::from(was_limited);
        let bucket = usize::from(account.held.bucket);
        self.heads[bucket] = self.heads[bucket].wrapping_sub(head).wrapping_add(account.head());
        self.hashes[bucket].take();
        self.root.take();
        self.revision += 1;
        result
    }

    fn open(&mut self, machine: &MachineId) -> Slot {
        let mut roster = self.commons.roster();
        let slot = roster.slot(machine).unwrap_or_else(|| roster.enroll(machine));
        if slot / PAGE >= self.pages.len() {
            self.pages.resize_with(slot / PAGE + 1, || None);
        }
        slot
    }

    fn bucket_in<'a>(&'a self, roster: &'a Roster, bucket: u8) -> impl Iterator<Item = Entry> + 'a {
        let (mut first, mut last) = ([0; 32], [0xff; 32]);
        (first[0], last[0]) = (bucket, bucket);
        let members = self.members.range(first..=last).map(|(key, member)| Entry::Member(*key, member.standing()));
        let slots = roster.bucket(bucket).iter();
        members.chain(slots.filter_map(|(machine, slot)| Some(Entry::Ledger(*machine, self.at(*slot)?.standing()?))))
    }

    fn bucket_hash(&self, bucket: u8) -> Digest {
        let hash = || hash_bucket(self.bucket_in(&self.commons.roster(), bucket));
        *self.hashes[usize::from(bucket)].get_or_init(|| match self.limited + self.members.len() {
            0 => self.commons.bucket_hash(self.heads[usize::from(bucket)], hash),
            _ => hash(),
        })
    }

    /// Calls `visit` with a bucket's entries in order, until it returns false.
    pub fn visit_bucket(&self, bucket: u8, mut visit: impl FnMut(Entry) -> bool) {
        let roster = self.commons.roster();
        let mut entries = self.bucket_in(&roster, bucket);
        while entries.next().is_some_and(&mut visit) {}
    }
}

/// What became of a ledger that had so many chunks and grew by `news`.
fn growth(chunks_before: usize, ledger: &Ledger, news: Arc<Chunk>) -> Growth {
    let new_chunks = ledger.chunks().len() - chunks_before;
    let seals = new_chunks > 0 && chunks_before > 0;
    let sealed = seals.then(|| ledger.chunks().iter().rev().nth(1).cloned()).flatten();
    Growth { news, sealed, new_chunks }
}

/// {machine → standing}, as one replica knows it. See [`crate::version_vector`].
#[derive(Clone, Copy)]
pub struct VersionVector<'a>(pub(super) &'a Accounts);

impl VersionVector<'_> {
    /// A machine's standing.
    pub fn get(&self, machine: &MachineId) -> Option<Standing> {
        self.0.get(machine).and_then(Account::standing)
    }

    /// How often a standing has changed: tells whether anything came, without hashing.
    pub fn revision(&self) -> u64 {
        self.0.revision
    }

    /// Sum of the heights: the swarm step.
    pub fn samples(&self) -> u64 {
        self.0.samples
    }

    /// Number of machines.
    pub fn machines(&self) -> usize {
        self.0.machines
    }

    /// Number of entries: machines, and keys of which the authority said something.
    pub fn entries(&self) -> usize {
        self.0.machines + self.0.members.len()
    }

    /// The hashes of all buckets, in their order.
    pub fn bucket_hashes(&self) -> Vec<[u8; 32]> {
        (0..=u8::MAX).map(|bucket| self.0.bucket_hash(bucket)).collect()
    }

    /// The vector's hash: equal for equal effective sets.
    pub fn root(&self) -> [u8; 32] {
        let hash = || combine_digests((0..=u8::MAX).map(|bucket| self.0.bucket_hash(bucket)));
        *self.0.root.get_or_init(hash)
    }
}
