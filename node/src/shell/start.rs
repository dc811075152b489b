//! The way from a directory to a running node, step by step. Whoever calls these methods loads models and texts in
//! between.

use anyhow::{Context, Result};
use engine::weights::Weights;
use peer::{GoalSettings, Input, Run};
use protocol::{
    replica::{Record, Replica},
    statement::Statement,
};

use super::Shell;
use crate::{
    join::invitation::Invitation,
    network::{Multiaddr, NetworkConfig, PeerId, StartError},
    say,
    storage::{BaseDownload, BaseReader, StorageHandle, opened::Opened, records},
    trainer::TrainerHandle,
    watch::{Observer, Points},
};

impl Shell {
    /// This disk's run, which nobody needs to be asked for.
    pub fn set_run(&mut self, run: Run) -> Result<()> {
        self.tell(Input::Run(run))
    }

    /// Takes part from now on: the network that there was is closed. `known`: nodes of earlier sessions.
    pub async fn open(
        &mut self,
        config: NetworkConfig,
        known: &[(PeerId, Multiaddr)],
    ) -> Result<Result<(), StartError>> {
        let opened = match self.wire.open(config).await {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        for (peer, address) in known {
            if let Some(node) = self.wire.know(*peer, address.clone()) {
                self.tell(Input::Recalled(node))?;
            }
        }
        self.tell(opened).map(Ok)
    }

    /// Asks for a run until one is on the disk. False if the peer has left before.
    pub async fn join(&mut self, config: NetworkConfig) -> Result<bool> {
        self.open(config, &[]).await??;
        self.fetch_until(|shell| shell.disk.has_joined()).await
    }

    /// Fetches the base in checked chunks, from all nodes at once. False if the peer has left before.
    pub async fn fetch_base(
        &mut self,
        opened: &Opened,
        config: NetworkConfig,
        known: &[(PeerId, Multiaddr)],
    ) -> Result<bool> {
        let download = BaseDownload::open(&opened.state, &opened.manifest)?;
        let (bytes, here) = download.progress();
        say::fetching(&opened.manifest.base.source, bytes, here);
        self.open(config, known).await??;
        let fetch = self.disk.begin_download(download);
        self.tell(fetch)?;
        let is_here = self.fetch_until(|shell| !shell.disk.is_downloading()).await?;
        if is_here {
            say::fetched();
        }
        Ok(is_here)
    }

    /// Runs until something is here, then closes the network. False if the peer has left before. What comes after
    /// blocks, so a signal just ends the process there: there is nothing to lose yet.
    async fn fetch_until(&mut self, is_here: impl Fn(&Self) -> bool) -> Result<bool> {
        self.interrupt.take_over();
        self.run_until(is_here).await?;
        self.wire.close().await;
        if !self.has_left() {
            self.interrupt.give_back();
        }
        Ok(!self.has_left())
    }

    /// Gives the peer all that the disk holds, the base being there. Returns the weights of the checkpoint, if there is
    /// a sound one that fits the ledgers, else of the base.
    pub fn restore(&mut self, opened: &Opened) -> Result<Weights> {
        self.tell(Input::BaseReady)?;
        for bytes in opened.state.statements()? {
            self.tell(Input::Restored(Record::Statement(records::statement(&bytes)?)))?;
        }
        opened
            .state
            .for_each_chunk(|bytes| self.tell(Input::Restored(Record::Chunk(records::chunk(bytes)?.into()))))?;
        self.refuse_withdrawn();
        opened.weights(|contents| {
            self.tell(Input::Checkpoint(contents))?;
            Ok(self.resumes == Some(true))
        })
    }

    /// Keys that the run's authority withdrew before this start.
    fn refuse_withdrawn(&mut self) {
        let statements = self.peer.replica().into_iter().flat_map(Replica::statements);
        let keys: Vec<[u8; 32]> = statements
            .filter_map(|statement| match statement {
                Statement::Withdrawal(withdrawal) => Some(withdrawal.key),
                _ => None,
            })
            .collect();
        keys.iter().for_each(|key| self.wire.refuse(key));
    }

    /// Held-out points of earlier sessions are known. To be told before the start.
    pub fn recall(&mut self, mut points: Points) -> Result<()> {
        let earlier = points.take_earlier();
        self.people.set_points(points);
        self.tell(Input::Curve(earlier))
    }

    /// There are threads that train and store, a base to serve, and people who watch.
    pub fn equip(
        &mut self,
        trainer: TrainerHandle,
        storage: StorageHandle,
        base: Option<BaseReader>,
        observer: Option<Observer>,
    ) {
        self.trainer = Some(trainer);
        self.disk.run(base, storage);
        self.people.set_observer(observer);
    }

    /// Begins, restored, equipped and on the network.
    pub fn start(&mut self, goals: GoalSettings) -> Result<()> {
        let network = self.wire.network().context("there is no network")?;
        if let Some(replica) = self.peer.replica() {
            let state = &self.disk.state;
            let secret = state.secret()?;
            self.people.set_invitation(Invitation::new(*replica.run(), network.peer_id(), secret, state.path()));
        }
        self.tell(Input::Start(goals))
    }
}
