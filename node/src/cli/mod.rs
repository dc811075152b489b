//! The command line (`run.rs` what a node that trains is told), and `settings.rs`, what follows from it, checked.

mod run;
pub mod settings;

use clap::{Args, Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf};

pub use run::{EstimatorChoice, LearningRate, RunArgs};

/// Where state lives unless told otherwise.
pub const DEFAULT_STATE: &str = "onebyte-state";

/// Fine-tune a language model together with others, exchanging one byte per gradient.
///
/// `node` alone starts a new run on the embedded model and prints the line that another machine types to join:
/// `node --join` and the run's ticket, one word. Data never leaves the machine. Ctrl-C leaves; the same command goes on
/// later.
#[derive(Parser, Debug)]
#[command(name = "node", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "EXAMPLES:
  node                                                   start a run on the embedded model
  node --join onebyte1…                                  join a run by its ticket
  node --join lan                                        join the run that is on the local network
  node --private                                         start a run that only who has its ticket can see
  node relay --join onebyte1…                            carry a run's bytes between machines that nobody can call
  node --model ./my-llama --data ./notes/                start a run on a Hugging Face checkpoint and own text
  node --http 127.0.0.1:8080                             show the run in a browser
  node --serve 127.0.0.1:8000                            talk with the model while it learns
  node chat --state onebyte-state                        talk with the model afterwards
  node log show --state onebyte-state                    look at the gossip log
  node export --state onebyte-state --out ./tuned        write the model for Hugging Face transformers")]
pub struct Cli {
    /// Without a subcommand: train.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to train, and with whom.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What else there is to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Look at the gossip log of a state directory, an exported file or a running node
    #[command(subcommand)]
    Log(LogCommand),
    /// Print the version vector's hash and the weights' digest: equal for equal states
    Digest(StateArgs),
    /// Print loss and bits per byte on a text, or accuracy on rows with choices
    Eval(EvalArgs),
    /// Write the model as a directory that Hugging Face transformers loads
    Export(ExportArgs),
    /// Continue a text
    Generate(GenerateArgs),
    /// Talk with the model in the terminal
    Chat(ChatArgs),
    /// Let people and programs talk with the model over HTTP, as OpenAI clients do
    Serve(ServeArgs),
    /// Revoke samples of a machine, as the run's authority (see --authority); its key may go on
    Revoke(RevokeArgs),
    /// Let a key contribute, as the authority of a run with --members by-authority
    Admit(AdmitArgs),
    /// Let a key contribute no more, for good, as the run's authority (see --authority)
    Withdraw(WithdrawArgs),
    /// Watch a running node in the terminal
    Top(TopArgs),
    /// Print the ticket by which others join the run of a state directory
    Ticket(TicketArgs),
    /// Print this machine's key, which a run's authority admits
    Key(KeyArgs),
    /// Carry bytes between machines of a run that nobody can call directly; needs no model and little memory
    Relay(RelayArgs),
    /// Look at what a node needs of this machine and its network, and say what to do about the rest
    Doctor(DoctorArgs),
    /// Let a node measure nothing for now; it goes on replaying and answering
    Pause(PauseArgs),
    /// Let a paused node go on
    Resume(PauseArgs),
}

/// Ways to look at the log.
#[derive(Subcommand, Debug)]
pub enum LogCommand {
    /// Machines: how far, how fast, their share, when last seen, revocations
    Show(LogArgs),
    /// The last entries of every machine; with -f, those that come
    Tail(TailArgs),
    /// What the bytes look like: per machine, over time, against the swarm
    Stat(LogArgs),
    /// One gradient: its seed, byte, segment and signature, and when it came
    Entry(EntryArgs),
    /// The weights as they were at some point of the run: digest, evaluation, export
    Replay(ReplayArgs),
    /// Draw the run: loss against gradients and bytes, who made what (SVG)
    Plot(PlotArgs),
    /// Check every signature and digest, replay from the base if it is at hand, compare with the checkpoint
    Verify(VerifyArgs),
    /// Write the whole log as one file, which `--file`, `node log import` and `node log diff` read
    Export(LogExportArgs),
    /// Take what is new in an exported file into a state directory
    Import(LogImportArgs),
    /// What two logs of one run differ in: samples, forks, revocations
    Diff(LogDiffArgs),
}

/// Which state.
#[derive(Args, Debug, Clone)]
pub struct StateArgs {
    /// State directory of a node that is not running
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
}

/// Which weights.
#[derive(Args, Debug, Clone)]
pub struct WeightsArgs {
    /// State directory; its node must not be running, unless --best is given
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// The weights at the best held-out point of the node's journal, in place of the newest
    #[arg(long)]
    pub best: bool,
}

/// Which log: one of the three.
#[derive(Args, Debug, Clone)]
pub struct SourceArgs {
    /// State directory; a node may be using it
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// File that `node log export` made
    #[arg(long, value_name = "FILE", conflicts_with = "state")]
    pub file: Option<PathBuf>,
    /// Ticket of a run, or address of a running node with its peer id (…/p2p/12D3KooW…). It is only asked
    #[arg(long, value_name = "TICKET|MULTIADDR", conflicts_with_all = ["state", "file"])]
    pub peer: Option<String>,
}

/// Which log, and how.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// Where.
    #[command(flatten)]
    pub source: SourceArgs,
    /// One JSON document instead of a table
    #[arg(long)]
    pub json: bool,
}

/// How much of the log.
#[derive(Args, Debug)]
pub struct TailArgs {
    /// Where, and how.
    #[command(flatten)]
    pub log: LogArgs,
    /// Entries per machine
    #[arg(long, short = 'n', default_value_t = 10)]
    pub entries: u64,
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
}

/// Which gradient.
#[derive(Args, Debug)]
pub struct EntryArgs {
    /// Where, and how.
    #[command(flatten)]
    pub log: LogArgs,
    /// Machine as `node log show` prints it in its first column, or the beginning of that
    pub machine: String,
    /// Its sample, from 0
    pub sample: u64,
}

/// Which weights, and what to do with them.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// Where, and how.
    #[command(flatten)]
    pub log: LogArgs,
    /// How far: a fraction of every height, 0 to 1; a number of gradients of the swarm, or a time by the clock here
    /// (2026-11-29T19:20), as the node's journal has them; or `machine:height,...` (others count with nothing)
    #[arg(long, value_name = "WHERE")]
    pub until: String,
    /// Hugging Face directory of the run's base model, for a log that comes without it
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Evaluate them on the embedded held-out text
    #[arg(long)]
    pub eval: bool,
    /// Evaluate them on this text, in any form that `node --data` takes
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// How its rows are read.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// Tokens per window [default: 128, or as many as the model can read]
    #[arg(long)]
    pub sequence_length: Option<usize>,
    /// Write them as a directory that Hugging Face transformers loads, new or empty
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What to draw, and where to.
#[derive(Args, Debug)]
pub struct PlotArgs {
    /// State directory; a node may be using it
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// SVG file to write
    #[arg(long, value_name = "FILE", default_value = "run.svg")]
    pub out: PathBuf,
}

/// What to check.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Where, and how.
    #[command(flatten)]
    pub log: LogArgs,
    /// Hugging Face directory of the run's base model, to replay a log that comes without it
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
}

/// Where to export the log.
#[derive(Args, Debug)]
pub struct LogExportArgs {
    /// Which log.
    #[command(flatten)]
    pub source: SourceArgs,
    /// File to write; must not be there yet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Where to import a log.
#[derive(Args, Debug)]
pub struct LogImportArgs {
    /// File that `node log export` made
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// State directory of a node that is not running, or a new one
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
}

/// What to compare.
#[derive(Args, Debug)]
pub struct LogDiffArgs {
    /// State directory, exported file, ticket, or address of a running node
    #[arg(value_name = "A")]
    pub first: String,
    /// Likewise
    #[arg(value_name = "B")]
    pub second: String,
    /// One JSON document instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Which columns of rows are read.
#[derive(Args, Debug, Default)]
pub struct ColumnArgs {
    /// Column of its rows that is the text [default: told by the columns' names]
    #[arg(long, value_name = "NAME")]
    pub text_field: Option<String>,
    /// Text of a row, as a Jinja template over its columns; see `node --help`
    #[arg(long, value_name = "JINJA")]
    pub template: Option<String>,
}

/// What to evaluate on.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Whose.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Text, in any form that `node --data` takes; without it the embedded held-out text, whatever the run trains on
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// How its rows are read.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// Windows or rows per batch
    #[arg(long, default_value_t = 8)]
    pub batch_size: usize,
    /// Tokens per window [default: 128, or as many as the model can read]
    #[arg(long)]
    pub sequence_length: Option<usize>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// Where to export.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Whose.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Directory to write, new or empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Of a run with --lora: the adapters alone, as PEFT has them, in place of the whole model
    #[arg(long)]
    pub adapter: bool,
}

/// What to continue.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Whose.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Text to continue
    #[arg(long)]
    pub prompt: String,
    /// Tokens to add
    #[arg(long, default_value_t = 128)]
    pub tokens: usize,
    /// 0 takes the likeliest token; higher is more varied [default: as the model's generation_config.json samples, else
    /// 0.8]
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Draw from so many of the likeliest tokens only; 0 for all [default: as the model's, else 0]
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability [default: as the model's, else 0.95]
    #[arg(long, value_name = "SHARE")]
    pub top_p: Option<f64>,
    /// Make tokens that were there before less likely; 1 changes nothing [default: as the model's, else 1]
    #[arg(long, value_name = "FACTOR")]
    pub repetition_penalty: Option<f64>,
    /// Stop before this text. Repeatable
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Seed of the sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Who talks.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// Whose.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// What the model is told first, as the system
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 512)]
    pub tokens: usize,
    /// 0 takes the likeliest token; higher is more varied [default: as the model's generation_config.json samples, else
    /// 0.8]
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Seed of the sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Whom to serve.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Whose.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Address to answer at
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000", value_parser = run::ip_and_port)]
    pub address: SocketAddr,
    /// Token (API key) that who asks must send [default: none on a loopback address, a random one elsewhere]
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
}

/// Whom to revoke.
#[derive(Args, Debug)]
pub struct RevokeArgs {
    /// State directory of the authority: the node that started the run with --authority, running or not
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Machine as `node log show` prints it in its first column, or the beginning of that
    #[arg(long)]
    pub machine: String,
    /// First sample to revoke
    #[arg(long, default_value_t = 0)]
    pub from: u64,
}

/// Whom to admit.
#[derive(Args, Debug)]
pub struct AdmitArgs {
    /// State directory of the authority: the node that started the run, running or not
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Key of the machine, 64 hexadecimal digits, as its node prints it
    pub key: String,
}

/// Whose key to withdraw.
#[derive(Args, Debug)]
pub struct WithdrawArgs {
    /// State directory of the authority: the node that started the run with --authority, running or not
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Key of the machine, 64 hexadecimal digits, as `node log entry` prints it
    pub key: String,
    /// Let nothing of it count, not even what is known of it now
    #[arg(long)]
    pub nothing: bool,
}

/// What to watch.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// State directory of a running node
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Print one line and leave
    #[arg(long)]
    pub once: bool,
}

/// Of which run.
#[derive(Args, Debug)]
pub struct TicketArgs {
    /// State directory; its node may be running, and says best then where it can be reached
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Only the word, without the picture to scan
    #[arg(long)]
    pub plain: bool,
}

/// Which node.
#[derive(Args, Debug)]
pub struct PauseArgs {
    /// State directory; its node may be running, or hears of it when it starts
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
}

/// Whose key.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// State directory; it is made if there is none, so that the key can be admitted before the node first runs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
}

/// What to look at.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// State directory, which a node may be using or which need not be there
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Ticket of a run whose machines are called, beside those that the state directory knows
    #[arg(long, value_name = "TICKET")]
    pub join: Option<String>,
    /// Address of a machine to call, with its peer id. Repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
}

/// What to relay, and where.
#[derive(Args, Debug)]
pub struct RelayArgs {
    /// Ticket of the run whose machines are relayed, and nobody else. Needed for a private run
    #[arg(long, value_name = "TICKET")]
    pub join: Option<String>,
    /// The same for an open run, by its id [default: whoever comes is relayed, within limits]
    #[arg(long, value_name = "ID", conflicts_with = "join")]
    pub run: Option<String>,
    /// Address of a machine of the run, with its peer id. Repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
    /// Address to listen on [default: port 9713 of IPv4 and IPv6]. Repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// Address at which others reach this machine, where that is not one of its own: of a router, or a name. Repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub announce: Vec<String>,
    /// Send at most so many kilobytes a second, over all connections [default: 250 for whoever comes, no limit for
    /// machines of one run]
    #[arg(long, value_name = "KB/S")]
    pub upload_limit: Option<u64>,
    /// Receive at most so many kilobytes a second, likewise: what is passed on comes in and goes out
    #[arg(long, value_name = "KB/S")]
    pub download_limit: Option<u64>,
    /// Directory for the relay's identity
    #[arg(long, value_name = "DIR", default_value = "onebyte-relay")]
    pub state: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::{collections::BTreeSet, fs};

    /// Long options of a command and of all below it.
    fn options(command: &clap::Command, found: &mut BTreeSet<String>) {
        found.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
        command.get_subcommands().for_each(|below| options(below, found));
    }

    /// What a document shows to be typed: lines of blocks of code, and what stands between backticks.
    fn typed(document: &str) -> Vec<&str> {
        let mut typed = Vec::new();
        for (number, part) in document.split("```").enumerate() {
            match number % 2 {
                0 => typed.extend(part.split('`').skip(1).step_by(2)),
                _ => typed.extend(part.lines()),
            }
        }
        typed
    }

    #[test]
    fn an_address_that_is_none_is_answered_with_one_that_is() {
        let commands: [&[&str]; 3] = [&["node", "--http"], &["node", "--serve"], &["node", "serve", "--address"]];
        for (said, meant) in
            [("localhost:9000", 9000), ("9000", 9000), (":9000", 9000), ("http://[::1]:9000/", 9000), ("x", 8080)]
        {
            for command in commands {
                let error = Cli::try_parse_from(command.iter().chain([&said])).err().unwrap().to_string();
                let words = format!("127.0.0.1:{meant} is for this machine alone, 0.0.0.0:{meant} for others, too");
                assert!(error.contains(&words), "{command:?} {said}: {error}");
            }
        }
        assert!(Cli::try_parse_from(["node", "--http", "[::1]:0"]).is_ok());
    }

    #[test]
    fn documents_name_no_option_that_is_not_there() {
        let mut command = Cli::command();
        command.build();
        let mut known = BTreeSet::new();
        options(&command, &mut known);
        let mut named = 0;
        for document in ["README.md", "GUIDE.md"] {
            let path = format!("{}/../{document}", env!("CARGO_MANIFEST_DIR"));
            let text = fs::read_to_string(path).unwrap();
            // What other programs are told is theirs.
            let is_ours = |line: &&str| line.starts_with("node ") || line.starts_with("--");
            for word in typed(&text).into_iter().filter(is_ours).flat_map(str::split_whitespace) {
                let Some(option) = word.trim_start_matches('(').strip_prefix("--") else { continue };
                let option = option.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
                assert!(known.contains(option), "{document} names --{option}, which no command has");
                named += 1;
            }
        }
        assert!(named > 50, "only {named} options were found");
    }
}
