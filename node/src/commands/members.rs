//! `admit`, `withdraw`: what the run's authority says of a key, written to its own state directory. Its node spreads it
//! when it runs next.

use anyhow::{Result, ensure};
use protocol::{
    manifest::Membership,
    member::{Admission, Member, NAMED_MAX, Withdrawal},
    replica::{Record, Settings},
    signature::{Ed25519Signer, Signer as _},
    statement::Statement,
};
use std::path::Path;

use crate::{
    cli::{AdmitArgs, WithdrawArgs},
    hex::{hex, parse_key},
    opened::Opened,
    outln, records,
};

/// Lets a key contribute.
pub fn admit(args: &AdmitArgs) -> Result<()> {
    let key = parse_key(&args.key)?;
    let (opened, authority) = of_authority(&args.state.state)?;
    ensure!(
        opened.manifest.membership == Membership::ByAuthority,
        "{}: this run admits nobody: its members were settled when it was started, without --members by-authority",
        args.state.state.display()
    );
    ensure!(key != authority.key(), "{}: the authority is a member of its own run", args.key);
    match opened.replica(Settings::default())?.member(&key) {
        None => {}
        Some(Member::Admitted(_)) => anyhow::bail!("{}: admitted already", args.key),
        Some(Member::Withdrawn { .. }) => anyhow::bail!("{}: withdrawn, which is for good", args.key),
    }
    store(&opened, Statement::Admission(Admission::sign(&opened.run, key, &authority)))?;
    outln!("{} is admitted; the swarm learns it when this node runs next", args.key)?;
    Ok(())
}

/// Lets a key contribute no more.
pub fn withdraw(args: &WithdrawArgs) -> Result<()> {
    let key = parse_key(&args.key)?;
    let (opened, authority) = of_authority(&args.state.state)?;
    let replica = opened.replica(Settings::default())?;
    let counted = replica.effective_ranges().filter(|range| range.machine.key == key && range.samples() > 0);
    let mut floors: Vec<(u64, u64)> = counted.map(|range| (range.machine.incarnation, range.to)).collect();
    if args.nothing {
        floors.clear();
    }
    floors.sort_unstable_by_key(|(_, floor)| std::cmp::Reverse(*floor));
    let left_out: u64 = floors.iter().skip(NAMED_MAX).map(|(_, floor)| floor).sum();
    let kept: u64 = floors.iter().take(NAMED_MAX).map(|(_, floor)| floor).sum();
    let withdrawal = Withdrawal::sign(&opened.run, key, &floors, &authority);
    if let Some(known) = replica.member(&key) {
        ensure!(known.after(&withdrawal).is_some(), "{}: withdrawn already, as far or further", args.key);
    }
    store(&opened, Statement::Withdrawal(withdrawal))?;
    outln!(
        "{} is withdrawn, for good: {kept} of its gradients still count, nothing else of it ever will; the swarm learns it when \
         this node runs next",
        args.key
    )?;
    if left_out > 0 {
        outln!("{left_out} gradients of its smallest ledgers do not count: a withdrawal names {NAMED_MAX} of them")?;
    }
    Ok(())
}

/// The run in a directory, whose key must be that of its authority.
fn of_authority(state: &Path) -> Result<(Opened, Ed25519Signer)> {
    let opened = Opened::existing(state)?;
    let authority = Ed25519Signer::from_seed(&opened.state.secret_key());
    ensure!(
        opened.manifest.authority == Some(authority.key()),
        "{}: this node (key {}) is not the run's authority; only the one that started the run with --authority is",
        state.display(),
        hex(&authority.key())
    );
    Ok((opened, authority))
}

fn store(opened: &Opened, statement: Statement) -> Result<()> {
    opened.state.commit(&[records::to_row(&Record::Statement(statement))?])
}
