//! What is said of machines and keys, on its way in.

use super::{
    accounts::Account,
    interface::{IncarnationCause, NodeId, Output, Record, Report, Verdict},
    state::Replica,
};
use crate::{
    anti_entropy::Want,
    error::InvalidChunk,
    member::{Member, Withdrawal},
    message::Gossip,
    revocation::Revocation,
    statement::Statement,
};

/// One peer is asked for admissions this often at most, ms.
const ADMISSION_PAUSE_MS: u64 = 1_000;

impl Replica {
    /// A gossiped statement.
    pub(super) fn stated(&mut self, from: NodeId, statement: Statement, now_ms: u64) -> Result<Verdict, InvalidChunk> {
        let is_membership = !matches!(statement, Statement::Revocation(_));
        let is_news = self.absorb_statement(statement)?;
        if is_news && is_membership {
            self.compare_anew(from, now_ms);
            self.pump(from, now_ms);
        }
        Ok(if is_news { Verdict::Accept } else { Verdict::Ignore })
    }

    /// A statement from anywhere: a peer, or this machine's own people. True if it is news, which is stored and spread.
    pub fn absorb_statement(&mut self, statement: Statement) -> Result<bool, InvalidChunk> {
        match statement {
            Statement::Revocation(revocation) => self.absorb_revocation(revocation),
            Statement::Admission(_) | Statement::Withdrawal(_) => self.absorb_membership(&statement),
        }
    }

    /// Whether a statement would be no news, sound or not.
    pub fn knows(&self, statement: &Statement) -> bool {
        match statement {
            Statement::Revocation(revocation) => !self.revokes_more(revocation),
            Statement::Admission(_) | Statement::Withdrawal(_) => matches!(self.member_after(statement), Ok(None)),
        }
    }

    fn absorb_revocation(&mut self, revocation: Revocation) -> Result<bool, InvalidChunk> {
        let machine = revocation.machine();
        if !self.manifest.admits(&machine) {
            return Err(InvalidChunk::NotAdmitted(machine));
        }
        // Anyone can make keys, and forks under them. The authority's word is taken in whoever it is about.
        let is_nobodys = revocation.is_fork() && self.accounts.allowed(&machine) == 0;
        if is_nobodys || !self.revokes_more(&revocation) {
            return Ok(false);
        }
        revocation.verify(&self.run, &self.manifest, self.verifier.as_ref())?;
        if self.accounts.len() >= self.settings.machines_max && self.accounts.get(&machine).is_none() {
            self.report_incomplete("the limit of machines is reached");
            return Ok(false);
        }
        self.revoke(revocation);
        Ok(true)
    }

    /// A fork outweighs everything; among the authority's the lowest sample counts.
    fn revokes_more(&self, revocation: &Revocation) -> bool {
        match self.accounts.get(&revocation.machine()).and_then(Account::revocation) {
            None => true,
            Some(Revocation::Fork(_)) => false,
            Some(known) => revocation.is_fork() || revocation.floor() < known.floor(),
        }
    }

    /// Takes a verified revocation into force, tells the disk and the swarm.
    pub(super) fn revoke(&mut self, revocation: Revocation) {
        let machine = revocation.machine();
        let revoked_from = (!revocation.is_fork()).then(|| revocation.floor());
        self.spread(Statement::Revocation(revocation.clone()));
        let cause = IncarnationCause::of(&revocation);
        let was = self.accounts.revoke(&self.run, revocation);
        self.outputs.push_back(Output::Report(match revoked_from {
            None => Report::Forked { machine, was },
            Some(from) => Report::Revoked { machine, from },
        }));
        self.settle(&machine);
        if machine == self.own.machine {
            self.renew(cause);
        }
    }

    fn spread(&mut self, statement: Statement) {
        self.outputs.push_back(Output::Persist(vec![Record::Statement(statement.clone())], None));
        self.outputs.push_back(Output::Publish(Gossip::Statement(statement)));
    }

    /// What a key comes to with a statement that is not verified yet; None if that is nothing new.
    fn member_after(&self, statement: &Statement) -> Result<Option<Member>, InvalidChunk> {
        let known = self.accounts.member(&statement.key());
        Ok(match (statement, known) {
            (Statement::Admission(admission), None) => Some(Member::Admitted(admission.clone())),
            (Statement::Withdrawal(withdrawal), known) => {
                Withdrawal::check_shape(withdrawal)?;
                match known {
                    None => Some(Member::withdrawn(withdrawal.clone())),
                    Some(known) => known.after(withdrawal),
                }
            }
            (Statement::Admission(_), Some(_)) | (Statement::Revocation(_), _) => None,
        })
    }

    fn absorb_membership(&mut self, statement: &Statement) -> Result<bool, InvalidChunk> {
        let key = statement.key();
        let Some(member) = self.member_after(statement)? else { return Ok(false) };
        statement.verify(&self.run, &self.manifest, self.verifier.as_ref())?;
        let members = self.accounts.members();
        if members.len() >= self.settings.machines_max && !members.contains_key(&key) {
            self.report_incomplete("the limit of keys that the authority spoke of is reached");
            return Ok(false);
        }
        self.spread(Statement::of_member(&member));
        let is_own = key == self.own.machine.key;
        match &member {
            Member::Admitted(_) if is_own => self.outputs.push_back(Output::Report(Report::Admitted)),
            Member::Admitted(_) => {}
            Member::Withdrawn { .. } => self.outputs.push_back(Output::Report(Report::Withdrawn { key, is_own })),
        }
        for machine in self.accounts.set_member(&self.run, key, member) {
            self.settle(&machine);
        }
        Ok(true)
    }

    /// Asks who spread samples of a key that is not admitted here for the authority's word.
    pub(super) fn ask_for_admission(&mut self, peer: NodeId, key: [u8; 32], now_ms: u64) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let has_rested = |last: u64| now_ms.saturating_sub(last) >= ADMISSION_PAUSE_MS;
        if state.last_admission_ms.is_none_or(has_rested) {
            state.last_admission_ms = Some(now_ms);
            state.wants.push_back(Want::Member { key });
            self.pump(peer, now_ms);
        }
    }

    /// Restores a statement from the own disk, checked like a peer's.
    pub fn restore_statement(&mut self, statement: Statement) -> Result<(), InvalidChunk> {
        match statement {
            Statement::Revocation(revocation) => {
                if self.revokes_more(&revocation) {
                    revocation.verify(&self.run, &self.manifest, self.verifier.as_ref())?;
                    self.accounts.revoke(&self.run, revocation);
                }
            }
            statement => {
                if let Some(member) = self.member_after(&statement)? {
                    statement.verify(&self.run, &self.manifest, self.verifier.as_ref())?;
                    self.accounts.set_member(&self.run, statement.key(), member);
                }
            }
        }
        Ok(())
    }
}
