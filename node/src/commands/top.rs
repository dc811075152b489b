//! `top`: a running node in the terminal.

use anyhow::{Context, Result};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use crate::{
    cli::TopArgs,
    control::{interrupt::Interrupt, pause},
    system::output,
    watch::terminal::View,
};

/// As often as the node writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// A wish to leave is heard within this.
const PATIENCE: Duration = Duration::from_millis(200);

/// Machines that a key for pages moves by.
const PAGE: isize = 10;

/// A screen until q, Esc or Ctrl-C; off a terminal a line a second, until the node leaves.
pub fn run(args: &TopArgs) -> Result<()> {
    let view = View::open(&args.state)?;
    if args.once || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return lines(args, view);
    }
    let interrupt = Interrupt::install(|| {})?;
    interrupt.take_over();
    // Also restores the terminal before a panic is printed.
    let mut terminal = ratatui::try_init().context("the terminal cannot be drawn on; try --once")?;
    let outcome = screen(args, view, &interrupt, &mut terminal);
    ratatui::restore();
    outcome
}

fn lines(args: &TopArgs, mut view: View) -> Result<()> {
    loop {
        output::piece(&format!("{}\n", view.line()))?;
        if args.once || view.has_left() {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
        view.refresh(&args.state)?;
    }
}

fn screen(args: &TopArgs, mut view: View, interrupt: &Interrupt, terminal: &mut DefaultTerminal) -> Result<()> {
    while !interrupt.is_wished() {
        // Drawn even if nothing came, since it may say for how long. A new size of the terminal is taken up here, too.
        terminal.draw(|frame| view.draw(frame))?;
        let drawn = Instant::now();
        while !interrupt.is_wished() && drawn.elapsed() < INTERVAL {
            if !event::poll(PATIENCE)? {
                continue;
            }
            match event::read()? {
                event if leaves(&event) => return Ok(()),
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    pressed(args, &mut view, key.code)?;
                    break;
                }
                Event::Resize(..) => break,
                _ => {}
            }
        }
        view.refresh(&args.state)?;
    }
    Ok(())
}

/// What a key does that does not leave.
fn pressed(args: &TopArgs, view: &mut View, key: KeyCode) -> Result<()> {
    match key {
        KeyCode::Up | KeyCode::Char('k') => view.scroll(-1),
        KeyCode::Down | KeyCode::Char('j') => view.scroll(1),
        KeyCode::PageUp => view.scroll(-PAGE),
        KeyCode::PageDown => view.scroll(PAGE),
        KeyCode::Home => view.scroll(isize::MIN),
        KeyCode::Char('s') => view.reorder(),
        KeyCode::Char('p') if pause::is_asked(&args.state) => drop(pause::take_back(&args.state)?),
        KeyCode::Char('p') => drop(pause::ask(&args.state)?),
        _ => {}
    }
    Ok(())
}

fn leaves(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let wished = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || control && key.code == KeyCode::Char('c');
    wished && key.kind == KeyEventKind::Press
}
