//! Ctrl-C, or a polite kill: heard by a thread of its own, because preparing a model or a text blocks everything else.

use anyhow::{Context, Result};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

/// The wish to leave.
pub struct Interrupt {
    wished: watch::Receiver<bool>,
    leaves_by_itself: Arc<AtomicBool>,
}

impl Interrupt {
    /// Starts to listen. Until [`Interrupt::take_over`] the process just ends: there is nothing to lose yet.
    pub fn install() -> Result<Self> {
        let (wish, wished) = watch::channel(false);
        let leaves_by_itself = Arc::new(AtomicBool::new(false));
        let takes_over = leaves_by_itself.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signals")?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(signalled());
            if !takes_over.load(Ordering::SeqCst) {
                std::process::exit(0);
            }
            let _ = wish.send(true);
            // A second time: now.
            runtime.block_on(signalled());
            std::process::exit(1);
        })?;
        Ok(Self { wished, leaves_by_itself })
    }

    /// From now on the caller leaves when [`Interrupt::wait`] returns.
    pub fn take_over(&self) {
        self.leaves_by_itself.store(true, Ordering::SeqCst);
    }

    /// Whether somebody wishes to leave.
    pub fn is_wished(&self) -> bool {
        *self.wished.borrow()
    }

    /// Returns once somebody wishes to leave.
    pub async fn wait(&mut self) {
        if self.wished.wait_for(|wished| *wished).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn signalled() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
