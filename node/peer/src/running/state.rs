//! What a peer with a run holds.

use protocol::replica::{IncarnationCause, Replica};
use std::collections::VecDeque;

use crate::{
    Config, Facts, GoalSettings, Output, Phase, Run,
    backlog::Backlog,
    checkpoint::Checkpoints,
    goals::Goals,
    leave::Leaving,
    links::Links,
    load::LoadMeter,
    pace::Pace,
    planted::{Forgotten, Planted},
    points::Points,
    twins::Twins,
};

/// With more entries waiting than a swarm's ordinary delay brings, people are told that the weights are behind.
pub(super) const BEHIND_ENTRIES: u64 = 10_000;

/// How far the start is.
pub(super) enum Stage {
    /// Records come from the disk.
    Restoring,
    /// A new incarnation is awaited, then it starts.
    Renewing(GoalSettings),
    /// Started.
    Going,
    /// A record was damaged, or it has left. Nothing is taken in any more.
    Ended,
}

/// See the documentation of `running`.
pub struct Running {
    pub(super) run: Run,
    pub(super) replica: Replica,
    pub(super) stage: Stage,
    pub(super) goals: Goals,
    pub(super) checkpoints: Checkpoints,
    pub(super) points: Points,
    pub(super) backlog: Backlog,
    pub(super) pace: Pace,
    pub(super) load: LoadMeter,
    pub(super) twins: Twins,
    /// Adoptions that the trainer has not confirmed: until then own samples of the old machine may be on their way.
    pub(super) adopting: usize,
    /// The swarm step that own bytes are measured at.
    pub(super) swarm_step: u64,
    /// Why a new incarnation was asked for, until it is here.
    pub(super) renewal: Option<IncarnationCause>,
    /// Number of the last write that was handed out, and of the last that is durable.
    pub(super) writes: u64,
    pub(super) stored: u64,
    /// Each own segment's write, and the replica's token for it, oldest first.
    pub(super) tokens: VecDeque<(u64, u64)>,
    /// Messages that no neighbour heard, to be published again.
    pub(super) unheard: VecDeque<Vec<u8>>,
    /// Whether the shell was told to read from the network.
    pub(super) is_reading: bool,
    /// Whether a weight is so near its range's end that probes rest.
    pub(super) is_near_edge: bool,
    /// Whether somebody wants nothing measured here.
    pub(super) is_paused: bool,
    /// Entries that the weights lack, and the most of them since they lacked none.
    pub(super) owed: u64,
    pub(super) owed_most: u64,
    pub(super) leaving: Option<Leaving>,
    pub(super) planted: Planted,
    pub(super) forgotten: Forgotten,
}

/// What [`Running`] works with besides itself.
pub struct Context<'a> {
    /// As it was begun with.
    pub config: &'a Config,
    /// Connections.
    pub links: &'a mut Links,
    /// Where outputs are put.
    pub outputs: &'a mut VecDeque<Output>,
    /// The time, ms.
    pub now_ms: u64,
}

impl Running {
    /// A peer of `run` whose base is here, and of which nothing else was restored into the `replica` yet.
    pub fn new(run: Run, replica: Replica, planted: Planted) -> Self {
        Self {
            run,
            replica,
            stage: Stage::Restoring,
            goals: Goals::new(GoalSettings::default(), false, 0, planted),
            checkpoints: Checkpoints::new(0, planted),
            points: Points::default(),
            backlog: Backlog::default(),
            pace: Pace::new(1, 1, 0),
            load: LoadMeter::default(),
            twins: Twins::default(),
            adopting: 0,
            swarm_step: 0,
            renewal: None,
            writes: 0,
            stored: 0,
            tokens: VecDeque::new(),
            unheard: VecDeque::new(),
            is_reading: true,
            is_near_edge: false,
            is_paused: false,
            owed: 0,
            owed_most: 0,
            leaving: None,
            planted,
            forgotten: Forgotten::default(),
        }
    }

    /// The replica.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What goals and people read.
    pub fn facts(&self, links: &Links) -> Facts {
        Facts {
            phase: self.phase(),
            has_joined: self.goals.has_joined(),
            is_current: self.goals.is_current(),
            neighbours: self.neighbours(links),
            owed: self.owed,
            owed_most: self.owed_most,
            load: self.load.load(self.owed),
            live: self.pace.live(),
            unstored: self.writes - self.stored,
            own_is_done: self.goals.own_is_done(&self.replica),
            forecast: self.points.curve().forecast(),
            stopped_flat: self.goals.has_stopped_flat(),
        }
    }

    /// How many are connected who answer.
    pub(super) fn neighbours(&self, links: &Links) -> usize {
        links.neighbours().len().saturating_sub(self.replica.mute())
    }

    fn phase(&self) -> Phase {
        match () {
            () if self.leaving.is_some() || self.has_ended() => Phase::Leaving,
            () if self.is_near_edge => Phase::Paused,
            () if !self.goals.has_joined() || self.owed > BEHIND_ENTRIES => Phase::CatchingUp,
            () if self.goals.own_is_done(&self.replica) => Phase::Serving,
            () if self.is_paused => Phase::Paused,
            () => Phase::Training,
        }
    }

    /// Whether it has started and not ended.
    pub(super) fn is_going(&self) -> bool {
        matches!(self.stage, Stage::Going)
    }

    /// Whether it has left, or its disk was damaged.
    pub fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }
}
