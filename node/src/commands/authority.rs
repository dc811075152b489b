//! `admit`, `withdraw`, `revoke`: what the run's authority says of a key or a machine. Its node, running or not,
//! spreads it.

use anyhow::{Context, Result, bail, ensure};
use protocol::{
    manifest::Membership,
    member::{Admission, Member, NAMED_MAX, Withdrawal},
    revocation::Revocation,
    signature::Signer as _,
    statement::Statement,
};

use crate::{
    cli::{AdmitArgs, RevokeArgs, WithdrawArgs},
    control::authority::{Authority, Given},
    outln,
    system::hex::parse_key,
};

/// Lets a key contribute.
pub fn admit(args: &AdmitArgs) -> Result<()> {
    let key = parse_key(&args.key)?;
    let authority = Authority::of(&args.state)?;
    ensure!(
        authority.log.manifest.membership == Membership::ByAuthority,
        "{}: this run admits nobody: its members were settled when it was started, without --members by-authority",
        args.state.display()
    );
    ensure!(key != authority.signer.key(), "{}: the authority is a member of its own run", args.key);
    match authority.log.replica.member(&key) {
        None => {}
        Some(Member::Admitted(_)) => bail!("{}: admitted already", args.key),
        Some(Member::Withdrawn { .. }) => bail!("{}: withdrawn, which is for good", args.key),
    }
    let admission = Admission::sign(&authority.log.run, key, &authority.signer);
    let given = authority.give(Statement::Admission(admission))?;
    ensure!(given != Given::Withdrawn, "{} is not admitted: {}", args.key, given.in_words());
    outln!("{} is admitted; {}", args.key, given.in_words())?;
    Ok(())
}

/// Lets a key contribute no more.
pub fn withdraw(args: &WithdrawArgs) -> Result<()> {
    let key = parse_key(&args.key)?;
    let authority = Authority::of(&args.state)?;
    ensure!(key != authority.signer.key(), "{}: the authority cannot withdraw itself", args.key);
    let replica = &authority.log.replica;
    let counted = replica.effective_ranges().filter(|range| range.machine.key == key && range.samples() > 0);
    let mut floors: Vec<(u64, u64)> = counted.map(|range| (range.machine.incarnation, range.to)).collect();
    if args.nothing {
        floors.clear();
    }
    floors.sort_unstable_by_key(|(_, floor)| std::cmp::Reverse(*floor));
    let left_out: u64 = floors.iter().skip(NAMED_MAX).map(|(_, floor)| floor).sum();
    let withdrawal = Withdrawal::sign(&authority.log.run, key, &floors, &authority.signer);
    let member = match replica.member(&key) {
        None => Some(Member::withdrawn(withdrawal)),
        Some(known) => known.after(&withdrawal),
    };
    let Some(member) = member else { bail!("{}: withdrawn already, as far or further", args.key) };
    let given = authority.give(Statement::of_member(&member))?;
    // Another withdrawal may have come meanwhile.
    let kept = still_counted(given.member().unwrap_or(&member));
    outln!(
        "{} is withdrawn, for good: {kept} of its gradients still count, nothing else of it ever will, and machines of the run \
         close its connections; {}",
        args.key,
        given.in_words()
    )?;
    if left_out > 0 {
        outln!("{left_out} gradients of its smallest ledgers do not count: a withdrawal names {NAMED_MAX} of them")?;
    }
    Ok(())
}

/// Gradients of a withdrawn key that count: no floor is above what there is.
fn still_counted(member: &Member) -> u64 {
    match member {
        Member::Withdrawn { floors, .. } => floors.iter().map(|(_, floor)| floor).sum(),
        Member::Admitted(_) => 0,
    }
}

/// Withdraws a machine's samples.
pub fn revoke(args: &RevokeArgs) -> Result<()> {
    let authority = Authority::of(&args.state)?;
    let replica = &authority.log.replica;
    let machine = authority.log.find(&args.machine).context("--machine")?;
    ensure!(replica.floor(&machine) > args.from, "{machine} is withdrawn already, as far or further");
    let revocation = Revocation::sign(&authority.log.run, machine, args.from, &authority.signer);
    let given = authority.give(Statement::Revocation(revocation))?;
    outln!("{machine} has its samples from {} on withdrawn; {}", args.from, given.in_words())?;
    Ok(())
}
