//! The other machines: who they are, and how this one comes to them.

use anyhow::{Result, ensure};
use protocol::{manifest::RunId, secret::Secret};

use crate::{
    cli::settings::{DEFAULT_PORT, Settings},
    network::{self, Multiaddr, NetworkConfig, PeerId},
    shell::Shell,
    storage::{StateDir, opened::Opened, records},
    system::name::program,
};

/// Machines that people named, one by one or in a ticket, and where they are. A ticket may name this machine, too.
pub fn given(settings: &Settings, state: &StateDir) -> Result<Vec<(PeerId, Multiaddr)>> {
    let own = network::peer_id(state.network_key())?;
    let named = settings.bootstrap.iter().map(|text| network::parse_bootstrap_of_another(text, own));
    let mut given = named.collect::<Result<Vec<_>, _>>()?;
    if let Some(ticket) = &settings.ticket {
        let others = ticket.machines.iter().filter(|(peer, _)| *peer != own);
        given.extend(others.flat_map(|(peer, at)| at.iter().map(|address| (*peer, address.clone()))));
        ensure!(
            !given.is_empty() || settings.mdns,
            "--join: the ticket names no other machine, and --no-mdns keeps from looking for one on the local network"
        );
    }
    Ok(given)
}

pub fn known_peers(state: &StateDir) -> Result<Vec<(PeerId, Multiaddr)>> {
    Ok(records::peers(state.known_peers()?))
}

/// The secret of the run: from its ticket, or from the disk.
fn secret(settings: &Settings, state: &StateDir) -> Result<Option<Secret>> {
    Ok(settings.ticket.as_ref().and_then(|ticket| ticket.secret).or(state.secret()?))
}

/// The run that was joined, or that goes on here, must be private if this machine was given a secret, and the other way
/// round.
pub fn check_secret(settings: &Settings, opened: &Opened) -> Result<()> {
    let secret = secret(settings, &opened.state)?;
    ensure!(
        opened.manifest.private == secret.map(|secret| secret.commitment()),
        "{}: the run is {}; join it with its ticket (--join), which `{program} ticket` prints on any of its machines",
        opened.state.path().display(),
        match opened.manifest.private {
            Some(_) => "private, and its secret is not here",
            None => "not private, and the ticket has a secret",
        },
        program = program()
    );
    ensure!(
        !settings.private || opened.manifest.private.is_some(),
        "--private: run {} was started open, which cannot be changed; start another with another --state",
        opened.run
    );
    if let (Some(secret), None) = (secret, opened.state.secret()?) {
        opened.state.set_secret(&secret)?;
    }
    Ok(())
}

/// A network that only asks: about any run, or about this one.
pub fn asking(settings: &Settings, state: &StateDir, run: Option<RunId>) -> Result<NetworkConfig> {
    let mdns = settings.mdns && (run.is_some() || settings.lan);
    Ok(NetworkConfig { mdns, ..network_of(settings, state, run, Vec::new())? })
}

/// A network as people want it.
fn network_of(
    settings: &Settings,
    state: &StateDir,
    run: Option<RunId>,
    listen: Vec<Multiaddr>,
) -> Result<NetworkConfig> {
    Ok(NetworkConfig {
        mdns: settings.mdns,
        asks_router: settings.mdns,
        given: given(settings, state)?.into_iter().map(|(_, address)| address).collect(),
        relays: settings.relays.clone(),
        announced: settings.announce.clone(),
        limits: settings.limits,
        prologue: secret(settings, state)?.map(|secret| secret.connection()),
        ..NetworkConfig::new(state.network_key(), run.map(|run| run.0), listen)
    })
}

/// Listens where the user said, or on the usual port, or on any.
pub async fn listen(settings: &Settings, opened: &Opened, shell: &mut Shell) -> Result<()> {
    let known = known_peers(&opened.state)?;
    let base = network_of(settings, &opened.state, Some(opened.run), settings.listen.clone())?;
    if !settings.listen.is_empty() {
        return Ok(shell.open(base, &known).await??);
    }
    let at_port = |port| NetworkConfig { listen: network::everywhere(port), listen_at_any: true, ..base.clone() };
    match shell.open(at_port(DEFAULT_PORT), &known).await? {
        Err(error) if error.is_occupied() => {
            tracing::info!("port {DEFAULT_PORT} is taken: listening on a free one");
            Ok(shell.open(at_port(network::free_port()?), &known).await??)
        }
        other => Ok(other?),
    }
}
