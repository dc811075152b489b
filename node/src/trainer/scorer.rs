//! A person's own program, which scores what the model writes (`--objective 'command …'`).
//!
//! It runs as long as the node trains. It reads JSON Lines on its standard input, and prints one number for each, in
//! their order. What it says cannot be trusted to come, to end, or to be a number: lines are bounded, waiting is
//! bounded, and one that ends is started again once for a batch. Only the command line of this machine names it.

use anyhow::{Context, Result, bail};
use engine::objective::{Completion, Judge};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, ErrorKind, Read, Write as _},
    os::unix::process::CommandExt,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Longest line that it may print, bytes.
const LINE_BYTES_MAX: u64 = 4_096;
/// Lines of its output that may wait to be read; then it waits.
const LINES_MAX: usize = 1_024;
/// What is kept of the end of its standard error, bytes.
const LAST_WORDS_BYTES: usize = 2_048;
/// What of a line is shown to people, characters.
const SHOWN_CHARACTERS: usize = 80;
/// One that has closed its output is given so long to end, and what it said last so long to come.
const ENDING_PATIENCE: Duration = Duration::from_secs(10);
/// The same when this program ends.
const LEAVING_PATIENCE: Duration = Duration::from_secs(1);
/// A larger score, either way, is none: sums and differences of them would say nothing.
const SCORE_MAX: f64 = 1e30;
/// After so many batches at first a line too many is waited for, and so long.
const WATCHED_BATCHES: u32 = 4;
const UNASKED_PATIENCE: Duration = Duration::from_millis(100);
/// Starts that one batch is worth.
const STARTS_MAX: u32 = 2;

/// The program. It is started when it is first asked.
pub struct Program {
    command: String,
    patience: Duration,
    running: Mutex<Option<Running>>,
    /// Its process group; 0 while it does not run.
    group: AtomicI32,
}

struct Running {
    child: Child,
    /// None once it is closed.
    input: Option<SyncSender<String>>,
    output: Receiver<Line>,
    last_words: Arc<Mutex<Vec<u8>>>,
    /// Disconnected once its standard error has ended.
    heard: Receiver<()>,
    /// Batches that it answered.
    batches: u32,
}

/// What it printed.
enum Line {
    Text(String),
    /// More than [`LINE_BYTES_MAX`].
    TooLong,
}

/// Why there are no scores.
enum Failure {
    /// It is gone, after so many scores.
    Ended(usize),
    /// It will not do, in words.
    Wrong(String),
}

impl Program {
    /// `command` is for the shell. `patience`: how long it may take for one batch.
    pub fn new(command: String, patience: Duration) -> Arc<Self> {
        Arc::new(Self { command, patience, running: Mutex::new(None), group: AtomicI32::new(0) })
    }

    /// For an objective.
    pub fn judge(self: &Arc<Self>) -> Box<dyn Judge> {
        Box::new(ProgramJudge(self.clone()))
    }

    /// Asks it to end, whoever waits for it.
    pub fn end(&self) {
        self.signal(Signal::TERM);
    }

    /// Whether any of its processes is there still.
    fn is_there(&self) -> bool {
        Pid::from_raw(self.group.load(Ordering::Acquire)).is_some_and(|group| test_kill_process_group(group).is_ok())
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.group.load(Ordering::Acquire)) {
            // It may be gone.
            let _ = kill_process_group(group, signal);
        }
    }

    /// One score for each of `completions`. Errors name the program, what it did, and the remedy.
    pub fn scores(&self, completions: &[Completion]) -> Result<Vec<f64>> {
        if completions.is_empty() {
            return Ok(Vec::new());
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for start in 1.. {
            let program = match running.take() {
                Some(program) => program,
                None => self.start()?,
            };
            let program = running.insert(program);
            let failure = match ask(program, completions, self.patience) {
                Ok(scores) => return Ok(scores),
                Err(failure) => failure,
            };
            let Some(program) = running.take() else { break };
            let (ending, words) = self.stop(program, matches!(failure, Failure::Ended(_)));
            let why = match failure {
                Failure::Wrong(why) => bail!("--objective: the program `{}` {why}{words}", self.command),
                Failure::Ended(scores) => {
                    format!("`{}` ended ({ending}) after {scores} of {} scores{words}", self.command, completions.len())
                }
            };
            if start == STARTS_MAX {
                bail!(
                    "--objective: the program {why}. It must go on until its standard input ends, and print one number for \
                     each line; try it by hand: echo '{{\"prompt\":\"\",\"row\":{{}},\"completion\":\"\",\"finish\":\"stop\"}}' \
                     | {}",
                    self.command
                );
            }
            tracing::warn!("--objective: the program {why}: starting it again");
        }
        bail!("--objective: the program `{}` does not stay", self.command)
    }

    fn start(&self) -> Result<Running> {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(&self.command)
            // Else what Python prints waits in a buffer while the node waits for it.
            .env("PYTHONUNBUFFERED", "1")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("--objective: `{}` cannot be started", self.command))?;
        self.group.store(i32::try_from(child.id()).unwrap_or(0), Ordering::Release);
        let (input, lines) = sync_channel(1);
        let (printed, output) = sync_channel(LINES_MAX);
        let (hears, heard) = sync_channel(1);
        let last_words = Arc::default();
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        if let (Some(stdin), Some(stdout), Some(stderr)) = streams {
            let last_words = Arc::clone(&last_words);
            thread::Builder::new().name("program in".into()).spawn(move || feed(stdin, &lines))?;
            thread::Builder::new().name("program out".into()).spawn(move || read(stdout, &printed))?;
            thread::Builder::new().name("program errors".into()).spawn(move || listen(stderr, &last_words, &hears))?;
        }
        Ok(Running { child, input: Some(input), output, last_words, heard, batches: 0 })
    }

    /// Ends a program that failed: how it ended, and what it said last. One that `ends` is given a moment to do so by
    /// itself.
    fn stop(&self, mut program: Running, ends: bool) -> (String, String) {
        program.input = None;
        let begun = Instant::now();
        let mut ended = program.child.try_wait().ok().flatten();
        while ends && ended.is_none() && begun.elapsed() < ENDING_PATIENCE {
            thread::sleep(Duration::from_millis(10));
            ended = program.child.try_wait().ok().flatten();
        }
        self.signal(Signal::KILL);
        let status = ended.map_or_else(|| program.child.wait(), Ok);
        self.group.store(0, Ordering::Release);
        // Its last words may be on their way still; they end with it, unless what left its group holds the pipe.
        let _ = program.heard.recv_timeout(ENDING_PATIENCE);
        let words = program.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = String::from_utf8_lossy(&words);
        let last: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = last.iter().rev().take(3).rev().map(|line| shown(line)).collect::<Vec<_>>().join(" / ");
        let ending = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        (ending, if last.is_empty() { String::new() } else { format!(". Its last words: {last}") })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
        let begun = Instant::now();
        while begun.elapsed() < LEAVING_PATIENCE && self.is_there() {
            thread::sleep(Duration::from_millis(10));
        }
        self.signal(Signal::KILL);
    }
}

struct ProgramJudge(Arc<Program>);

impl Judge for ProgramJudge {
    fn scores(&self, completions: &[Completion]) -> Result<Vec<f64>> {
        self.0.scores(completions)
    }
}

/// Gives it the completions, and waits for their scores.
fn ask(program: &mut Running, completions: &[Completion], patience: Duration) -> Result<Vec<f64>, Failure> {
    let unasked = |line: Line| {
        Err(Failure::Wrong(format!(
            "printed a line that nobody asked for, {}: it must print exactly one number for each line that it reads",
            line.shown()
        )))
    };
    match program.output.try_recv() {
        Err(TryRecvError::Empty) => {}
        Err(TryRecvError::Disconnected) => return Err(Failure::Ended(0)),
        Ok(line) => return unasked(line),
    }
    let mut lines = String::new();
    for completion in completions {
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{}", completion.line());
    }
    let is_there = program.input.as_ref().is_some_and(|input| input.send(lines).is_ok());
    let (begun, mut scores) = (Instant::now(), Vec::with_capacity(completions.len()));
    while scores.len() < completions.len() {
        let left = patience.saturating_sub(begun.elapsed());
        match program.output.recv_timeout(left) {
            Ok(line) => scores.push(line.score().ok_or_else(|| {
                Failure::Wrong(format!(
                    "printed {} as score {} of {}, which is no number between -{SCORE_MAX:e} and {SCORE_MAX:e}: it must print \
                     one a line, and nothing else (its standard error is for words)",
                    line.shown(),
                    scores.len() + 1,
                    completions.len()
                ))
            })?),
            Err(RecvTimeoutError::Disconnected) => return Err(Failure::Ended(scores.len())),
            Err(RecvTimeoutError::Timeout) => {
                return Err(Failure::Wrong(format!(
                    "printed {} of {} scores within {} s{}: it must answer each line as it comes, without waiting for the \
                     end of its input, and flush what it prints; --score-seconds gives it longer",
                    scores.len(),
                    completions.len(),
                    patience.as_secs_f64(),
                    if is_there { "" } else { " and reads no more" },
                )));
            }
        }
    }
    program.batches += 1;
    // A number too many would count for the next batch, and for ever.
    if program.batches <= WATCHED_BATCHES
        && let Ok(line) = program.output.recv_timeout(UNASKED_PATIENCE)
    {
        return unasked(line);
    }
    Ok(scores)
}

impl Line {
    fn score(&self) -> Option<f64> {
        let Self::Text(text) = self else { return None };
        text.trim().parse::<f64>().ok().filter(|score| score.abs() <= SCORE_MAX)
    }

    /// For people.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("{:?}", shown(text)),
            Self::TooLong => format!("a line of more than {LINE_BYTES_MAX} bytes"),
        }
    }
}

/// The beginning of a text.
fn shown(text: &str) -> String {
    let beginning: String = text.chars().take(SHOWN_CHARACTERS).collect();
    if beginning.len() < text.len() { format!("{beginning}…") } else { beginning }
}

/// Writes what comes, until there is no more of it, or nobody reads.
fn feed(mut stdin: ChildStdin, lines: &Receiver<String>) {
    while let Ok(lines) = lines.recv() {
        if stdin.write_all(lines.as_bytes()).and_then(|()| stdin.flush()).is_err() {
            break;
        }
    }
}

/// Reads lines, until there are no more, or nobody takes them.
fn read(stdout: ChildStdout, printed: &SyncSender<Line>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let line = match stdout.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Err(_) | Ok(0) => break,
            Ok(bytes) if bytes as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') => Line::TooLong,
            Ok(_) => Line::Text(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()),
        };
        if printed.send(line).is_err() {
            break;
        }
    }
}

/// Reads all of it, and keeps the end. `_hears` lives as long.
fn listen(mut stderr: ChildStderr, last_words: &Mutex<Vec<u8>>, _hears: &SyncSender<()>) {
    let mut piece = [0; LAST_WORDS_BYTES];
    loop {
        let bytes = match stderr.read(&mut piece) {
            Ok(bytes @ 1..) => bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return,
        };
        let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&piece[..bytes]);
        let surplus = words.len().saturating_sub(LAST_WORDS_BYTES);
        words.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::model::Finish;

    /// Far longer than any of these takes: only what never answers is given a short time.
    const LONG: Duration = Duration::from_secs(120);

    fn completions(texts: &[&str]) -> Vec<Completion> {
        let asked: Arc<str> = r#"{"prompt":"2+2=","row":{"answer":"4"}}"#.into();
        let one = |text: &&str| Completion { asked: asked.clone(), text: (*text).into(), finish: Finish::Stop };
        texts.iter().map(one).collect()
    }

    fn scores(command: &str, patience: Duration, texts: &[&str]) -> Result<Vec<f64>, String> {
        let program = Program::new(command.into(), patience);
        program.scores(&completions(texts)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn it_reads_lines_of_json_and_gives_one_number_for_each() {
        let line = completions(&["four\n\"4\""])[0].line();
        let expected = r#"{"prompt":"2+2=","row":{"answer":"4"},"completion":"four\n\"4\"","finish":"stop"}"#;
        assert_eq!(line, expected);
        // It stays, and counts the lines of all batches.
        let program = Program::new(r"n=0; while read -r line; do n=$((n+1)); echo $n; done".into(), LONG);
        assert_eq!(program.scores(&completions(&["a", "b"])).unwrap(), [1.0, 2.0]);
        assert_eq!(program.scores(&completions(&["c"])).unwrap(), [3.0]);
        let by_word =
            r#"while read -r line; do case $line in *'"completion":"yes"'*) echo 1.5e0;; *) echo -0.5;; esac; done"#;
        assert_eq!(scores(by_word, LONG, &["yes", "no", "yes"]).unwrap(), [1.5, -0.5, 1.5]);
        assert!(scores("exit 3", LONG, &[]).unwrap().is_empty(), "nobody is asked about nothing");
    }

    #[test]
    fn more_than_a_pipe_holds_goes_through_both_ways() {
        let text = "x".repeat(4_000);
        let texts: Vec<&str> = (0..200).map(|_| text.as_str()).collect();
        let answers = scores("while read -r line; do echo ${#line}; done", LONG, &texts).unwrap();
        assert!(answers.len() == 200 && answers.iter().all(|length| *length > 4_000.0));
    }

    #[test]
    fn one_that_dies_is_started_again_once_for_a_batch() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark");
        let once = format!(
            "if [ -e {0} ]; then while read -r l; do echo 7; done; fi; touch {0}; read l; echo 1; kill -9 $$",
            mark.display()
        );
        assert_eq!(scores(&once, LONG, &["a", "b"]).unwrap(), [7.0, 7.0], "the batch is asked anew, as a whole");
        let error = scores("read l; echo 1; echo out of memory >&2; exit 4", LONG, &["a", "b"]).unwrap_err();
        for word in ["exit status: 4", "after 1 of 2 scores", "out of memory", "try it by hand"] {
            assert!(error.contains(word), "{error}");
        }
        let error = scores("no-such-program-anywhere", LONG, &["a"]).unwrap_err();
        assert!(error.contains("no-such-program-anywhere") && error.contains("not found"), "{error}");
    }

    #[test]
    fn one_that_lies_is_named_with_what_it_said() {
        for said in ["NaN", "inf", "great", "", "0.5 0.7", "1e999"] {
            let error = scores(&format!("while read -r l; do echo '{said}'; done"), LONG, &["a"]).unwrap_err();
            assert!(error.contains(&format!("{said:?} as score 1 of 1")) && error.contains("echo"), "{error}");
        }
        let error = scores("head -c 100000000 /dev/zero | tr '\\0' x; sleep 600", LONG, &["a"]).unwrap_err();
        assert!(error.contains("more than 4096 bytes"), "{error}");
        // A number too many is found at one of the next batches: as soon as it comes before what is asked then.
        let program = Program::new("while read -r l; do echo 1; echo 2; done".into(), LONG);
        let mut outcomes = (0..1_000).map(|_| program.scores(&completions(&["a"])));
        let error = outcomes.find_map(Result::err).unwrap().to_string();
        assert!(error.contains("nobody asked for"), "{error}");
    }

    #[test]
    fn one_that_never_answers_is_ended_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let hangs = format!("(sleep 6000 & echo $! >{}; wait)", pid.display());
        let mut patience = Duration::from_millis(500);
        // Until it is given enough time to start.
        let pid = loop {
            let error = scores(&hangs, patience, &["a"]).unwrap_err();
            let within = format!("0 of 1 scores within {} s", patience.as_secs_f64());
            for word in [&*within, "flush", "--score-seconds"] {
                assert!(error.contains(word), "{error}");
            }
            match std::fs::read_to_string(&pid) {
                Ok(pid) if pid.ends_with('\n') => break pid,
                _ => patience *= 2,
            }
        };
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            state.map_or(true, |state| state.contains(") Z "))
        };
        for _ in 0..10_000 {
            if is_gone() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        assert!(is_gone());
        let floods = "yes 1";
        let error = scores(floods, LONG, &["a"]).and_then(|_| scores(floods, LONG, &["a"])).map(|_| ()).err();
        assert!(error.is_none_or(|error| error.contains("nobody asked for")));
    }
}
