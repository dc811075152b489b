//! What a run's authority says of keys and machines (`admit`, `withdraw`, `revoke`), on its way from a command to the
//! node of its state directory.
//!
//! A node that runs holds the directory. So the command leaves the signed statement there as a file; the node takes it
//! up within a second, checks it as it checks a peer's, and removes the file once the statement is durable. Where no
//! node runs, the command stores it itself.

use anyhow::{Context, Result, ensure};
use protocol::{
    member::Member,
    replica::{Record, Replica},
    signature::{Ed25519Signer, Signer as _},
    statement::Statement,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    log::{Log, onlooker},
    storage::{
        Row, StateDir,
        records::{self, RECORD_BYTES_MAX},
    },
    system::hex::hex,
};

/// Files in the state directory are named so, with a hash between.
const NAME: (&str, &str) = ("statement-", ".signed");
/// A node looks for them this often.
const LOOK: Duration = Duration::from_secs(1);
/// A node takes so many of them up at a time.
const FILES_MAX: usize = 64;
/// A command waits so long for a node, which may be starting. Then it says how things stand, and nothing is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// The authority of the run in a state directory, which a node may be using.
pub struct Authority {
    /// The run, as the directory has it.
    pub log: Log,
    /// With the authority's key.
    pub signer: Ed25519Signer,
    state: PathBuf,
}

/// What became of a statement.
#[derive(PartialEq, Eq, Debug)]
pub enum Given {
    /// No node runs here: it is stored. How its key stands with it and with what came meanwhile.
    Stored(Option<Member>),
    /// No node runs here, and one stored as much meanwhile, or more: nothing was stored. How its key stands.
    Known(Option<Member>),
    /// Likewise: it is an admission, and its key was withdrawn meanwhile.
    Withdrawn,
    /// The node that runs here has it.
    Taken,
    /// The node that runs here has not looked yet; the file is there.
    Left(PathBuf),
}

impl Given {
    /// What happens now, after a semicolon or a colon.
    pub fn in_words(&self) -> String {
        match self {
            Self::Stored(_) => "the swarm learns it when this node runs next".into(),
            Self::Known(_) => "this node has that by now, or more: nothing was stored".into(),
            Self::Withdrawn => "its key was withdrawn meanwhile, which is for good: nothing was stored".into(),
            Self::Taken => "the node that runs here has it, and tells the swarm".into(),
            Self::Left(file) => format!(
                "that takes effect once the node that runs here is through with its start ({} is gone then)",
                file.display()
            ),
        }
    }

    /// How its key stands in the run now, as far as that was seen.
    pub fn member(&self) -> Option<&Member> {
        match self {
            Self::Stored(member) | Self::Known(member) => member.as_ref(),
            Self::Withdrawn | Self::Taken | Self::Left(_) => None,
        }
    }
}

impl Authority {
    /// That of the run in `state`, whose key must be the authority's.
    pub fn of(state: &Path) -> Result<Self> {
        let log = Log::of_state(state)?;
        let copy = log.state.as_ref().context("a log without its state directory")?;
        let signer = Ed25519Signer::from_seed(&copy.secret_key());
        ensure!(
            log.manifest.authority == Some(signer.key()),
            "{}: this node (key {}) is not the run's authority; only the one that started the run with --authority is",
            state.display(),
            hex(&signer.key())
        );
        Ok(Self { log, signer, state: state.to_owned() })
    }

    /// Stores a statement, or gives it to the node that runs here.
    pub fn give(&self, statement: Statement) -> Result<Given> {
        let row = records::to_row(&Record::Statement(statement.clone()))?;
        let (begun, mut left) = (Instant::now(), None);
        loop {
            if let Some(file) = left.as_ref().filter(|file: &&PathBuf| !file.exists()) {
                tracing::debug!(file = %file.display(), "taken up");
                return Ok(Given::Taken);
            }
            if let Some(state) = StateDir::open_if_free(&self.state)? {
                // A node may have stored more since the log was read.
                let mut known = onlooker(self.log.run, &self.log.manifest)?;
                for bytes in state.statements()? {
                    known.restore_statement(records::statement(&bytes)?)?;
                }
                let given = match with_known(&mut known, &statement)? {
                    Some(statement) => {
                        let member = known.member(&statement.key()).cloned();
                        state.commit(&[records::to_row(&Record::Statement(statement))?])?;
                        Given::Stored(member)
                    }
                    None => outdone(&known, &statement),
                };
                left.as_deref().map_or(Ok(()), remove)?;
                return Ok(given);
            }
            match left.take() {
                Some(file) if begun.elapsed() >= PATIENCE => return Ok(Given::Left(file)),
                Some(file) => left = Some(file),
                None => left = Some(leave(&self.state, &row)?),
            }
            std::thread::sleep(LOOK / 10);
        }
    }
}

/// What a statement comes to with all that `known` has: what a disk is to have in place of what it has. None if that is
/// nothing new.
fn with_known(known: &mut Replica, statement: &Statement) -> Result<Option<Statement>> {
    if known.knows(statement) {
        return Ok(None);
    }
    known.restore_statement(statement.clone())?;
    Ok(match statement {
        Statement::Revocation(_) => Some(statement.clone()),
        Statement::Admission(_) | Statement::Withdrawal(_) => known.member(&statement.key()).map(Statement::of_member),
    })
}

/// What becomes of a statement that is nothing new to `known`.
fn outdone(known: &Replica, statement: &Statement) -> Given {
    match (statement, known.member(&statement.key())) {
        (Statement::Admission(_), Some(Member::Withdrawn { .. })) => Given::Withdrawn,
        (_, member) => Given::Known(member.cloned()),
    }
}

/// Writes a statement to a file for the node of `state`, whole or not at all.
fn leave(state: &Path, row: &Row) -> Result<PathBuf> {
    let Row::Statement { bytes, .. } = row else { anyhow::bail!("a record that is no statement") };
    let (before, after) = NAME;
    let file = state.join(format!("{before}{}{after}", &blake3::hash(bytes).to_hex()[..16]));
    let part = file.with_extension("part");
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, &file))
        .with_context(|| format!("{}: cannot be written", file.display()))?;
    Ok(file)
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed; remove it by hand", file.display()))
        }
        _ => Ok(()),
    }
}

/// Where a running node finds what its authority said.
pub struct Inbox {
    state: PathBuf,
    looked: Option<Instant>,
    /// Files that were taken up, and the write after which each may go.
    taken: Vec<(PathBuf, u64)>,
}

impl Inbox {
    /// That of the node in `state`.
    pub fn of(state: &Path) -> Self {
        Self { state: state.to_owned(), looked: None, taken: Vec::new() }
    }

    /// Statements that have come since the last look, if it is time to look. A file that holds none is said, and goes.
    pub fn look(&mut self) -> Vec<(PathBuf, Statement)> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Vec::new();
        }
        self.looked = Some(Instant::now());
        let mut statements = Vec::new();
        for file in self.files() {
            match read(&file) {
                Ok(statement) => statements.push((file, statement)),
                Err(error) => {
                    tracing::warn!(
                        "{}: cannot be read as a statement of the run's authority ({error:#}); removed",
                        file.display()
                    );
                    self.taken(file, 0);
                }
            }
        }
        statements
    }

    fn files(&self) -> Vec<PathBuf> {
        let is_one = |file: &PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(NAME.0) && name.ends_with(NAME.1) && !self.taken.iter().any(|(taken, _)| taken == file)
        };
        let entries = fs::read_dir(&self.state).into_iter().flatten();
        entries.map_while(Result::ok).map(|entry| entry.path()).filter(is_one).take(FILES_MAX).collect()
    }

    /// The statement in `file` is durable, if it is of any use, with this write.
    pub fn taken(&mut self, file: PathBuf, write: u64) {
        self.taken.push((file, write));
    }

    /// Everything up to the write `stored` is durable: files with no more than that go. One that cannot go is said, and
    /// left alone.
    pub fn clear(&mut self, stored: u64) {
        for (file, _) in self.taken.iter_mut().filter(|(_, write)| *write <= stored) {
            if let Err(error) = remove(file) {
                tracing::warn!("{error:#}");
            }
        }
        self.taken.retain(|(file, write)| *write > stored || file.exists());
        self.taken.iter_mut().filter(|(_, write)| *write <= stored).for_each(|(_, write)| *write = u64::MAX);
    }
}

fn read(file: &Path) -> Result<Statement> {
    let length = fs::metadata(file)?.len();
    ensure!(length <= RECORD_BYTES_MAX as u64, "{length} bytes are too many");
    records::statement(&fs::read(file)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small;
    use protocol::{
        machine::MachineId,
        manifest::{Manifest, RunId},
        member::{Admission, Withdrawal},
        revocation::Revocation,
    };

    /// A command reads the log, and waits for a node that is leaving: what that one stored meanwhile was overwritten.
    #[test]
    fn what_the_authority_says_takes_the_place_of_nothing_that_says_more() {
        let authority = Ed25519Signer::from_seed(&[1; 32]);
        let manifest = Manifest { authority: Some(authority.key()), ..small::manifest() };
        let run = manifest.run_id().unwrap();
        let machine = MachineId { key: [3; 32], incarnation: 4 };
        let revocation = |from| Statement::Revocation(Revocation::sign(&run, machine, from, &authority));
        let withdrawal = |floors: &[(u64, u64)]| Withdrawal::sign(&run, [5; 32], floors, &authority);
        let mut known = onlooker(run, &manifest).unwrap();
        known.restore_statement(revocation(10)).unwrap();
        known.restore_statement(Statement::Withdrawal(withdrawal(&[(1, 10), (2, 20)]))).unwrap();
        assert_eq!(with_known(&mut known, &revocation(20)).unwrap(), None);
        assert_eq!(with_known(&mut known, &revocation(5)).unwrap(), Some(revocation(5)));
        // Each names a lower floor of another incarnation: both are kept, as one.
        let other = Statement::Withdrawal(withdrawal(&[(1, 15), (2, 15)]));
        let Some(Statement::Withdrawal(both)) = with_known(&mut known, &other).unwrap() else { panic!("it is news") };
        assert_eq!(both.floors(), [(1, 10), (2, 15)]);
        assert_eq!(with_known(&mut known, &other).unwrap(), None);
        let outdone_by = outdone(&known, &other);
        let Some(Member::Withdrawn { floors, .. }) = outdone_by.member() else { panic!("it is withdrawn") };
        assert_eq!(*floors, [(1, 10), (2, 15)], "as the run has it, and not as this one does");
        let admission = Statement::Admission(Admission::sign(&run, [5; 32], &authority));
        assert_eq!(with_known(&mut known, &admission).unwrap(), None);
        assert_eq!(outdone(&known, &admission), Given::Withdrawn);
    }

    #[test]
    fn a_statement_is_read_once_and_stays_until_it_is_durable_and_other_files_go() {
        let state = tempfile::tempdir().unwrap();
        let authority = Ed25519Signer::from_seed(&[1; 32]);
        let statement = Statement::Admission(Admission::sign(&RunId([2; 32]), [3; 32], &authority));
        let file = leave(state.path(), &records::to_row(&Record::Statement(statement.clone())).unwrap()).unwrap();
        let [torn, other] = ["statement-0.signed", "statement-1.part"].map(|name| state.path().join(name));
        fs::write(&torn, b"half").unwrap();
        fs::write(&other, b"not yet renamed").unwrap();
        let mut inbox = Inbox::of(state.path());
        assert_eq!(inbox.look(), [(file.clone(), statement)]);
        assert!(inbox.look().is_empty(), "it is not time yet");
        inbox.taken(file.clone(), 7);
        inbox.clear(6);
        assert!(file.exists() && !torn.exists() && other.exists());
        inbox.looked = None;
        assert!(inbox.look().is_empty(), "it is taken up already");
        inbox.clear(7);
        assert!(!file.exists() && inbox.taken.is_empty());
    }
}
