//! What one log has and another lacks, taken over the way one node takes it from another: by anti-entropy, everything
//! checked, contradictions becoming fork proofs.

use anyhow::{Result, bail};
use protocol::{
    message::Response,
    replica::{NodeId, Output, Record, Replica, Report},
};

/// The only peer.
const SOURCE: NodeId = NodeId(1);
/// Between two rounds, by the clock that the replicas are shown: longer than any pause of theirs.
const ROUND_MS: u64 = 60_000;

/// Takes everything into `target` that `source`, of the same run, has beyond it. `keep` makes records durable, in
/// order.
///
/// Returns what people should hear of. Fails if `keep` does, or if `source` breaks a rule of the protocol.
pub fn merge(
    source: &mut Replica,
    target: &mut Replica,
    mut keep: impl FnMut(Vec<Record>) -> Result<()>,
) -> Result<Vec<Report>> {
    let (mut now_ms, mut reports) = (ROUND_MS, Vec::new());
    target.peer_connected(SOURCE, now_ms);
    loop {
        let (mut kept, mut question) = (false, None);
        loop {
            while let Some(output) = target.poll_output() {
                match output {
                    Output::Ask(_, asked) => question = Some(asked),
                    Output::Persist(records, _) => {
                        kept = true;
                        keep(records)?;
                    }
                    Output::Report(report) => reports.push(report),
                    Output::Penalize(_, offence) => bail!("a part of the log breaks a rule: {offence:?}"),
                    _ => {}
                }
            }
            let Some(asked) = question.take() else { break };
            let answer = source.answer(SOURCE, &asked, now_ms).unwrap_or(Response::Unavailable);
            target.answered(SOURCE, answer, now_ms);
        }
        if !kept {
            return Ok(reports);
        }
        // What is behind a revocation shows only in the next round.
        now_ms += ROUND_MS;
        target.compare_with_all(now_ms);
    }
}
