//! What a node's journal says about its log: when samples came, which revocations were known, what the weights' digest
//! was.

use anyhow::Result;
use protocol::machine::MachineId;
use std::{collections::HashMap, path::Path};

use crate::watch::journal::{self, Heights, Line, Point};

/// Over which time a machine's present rate is taken.
const RATE_MS: u64 = 60_000;

/// A journal that was read.
#[derive(Default, Debug)]
pub struct Journal {
    /// Per machine: (Unix ms, height), in order.
    grown: HashMap<String, Vec<(u64, u64)>>,
    /// When the node looked at its ledgers, Unix ms, in order.
    looks: Vec<u64>,
    /// Machine, Unix ms.
    revoked: Vec<(String, u64)>,
    /// Unix ms, weights' digest (hexadecimal), what they held.
    weights: Vec<(u64, String, Heights)>,
    points: Vec<Point>,
    /// Lines that could not be read: what a crash cut off.
    pub unreadable: usize,
}

impl Journal {
    /// The journal in the directory `state`; None if there is none.
    pub fn read(state: &Path) -> Result<Option<Self>> {
        let Some((lines, unreadable)) = journal::read(state)? else { return Ok(None) };
        let mut journal = Self { unreadable, ..Self::default() };
        for line in lines {
            match line {
                Line::Heights { at_ms, heights } => {
                    journal.looks.push(at_ms);
                    for (machine, height) in heights {
                        journal.grown.entry(machine).or_default().push((at_ms, height));
                    }
                }
                Line::Revoked { at_ms, machine, .. } => journal.revoked.push((machine, at_ms)),
                Line::Weights { at_ms, weights, heights } => journal.weights.push((at_ms, weights, heights)),
                Line::Point(point) => {
                    journal.weights.push((point.at_ms, point.weights.clone(), point.heights.clone()));
                    journal.points.push(point);
                }
            }
        }
        Ok(Some(journal))
    }

    fn of(&self, machine: &MachineId) -> &[(u64, u64)] {
        self.grown.get(&machine.to_string()).map_or(&[], Vec::as_slice)
    }

    /// When this node had `sample`, Unix ms: (the last time it had not yet, the first time it had).
    pub fn came(&self, machine: &MachineId, sample: u64) -> Option<(Option<u64>, u64)> {
        let grown = self.of(machine);
        let (by, _) = *grown.iter().find(|(_, height)| *height > sample)?;
        let before = self.looks.iter().rev().find(|look| **look < by);
        Some((before.copied(), by))
    }

    /// When the machine's ledger last grew here, Unix ms.
    pub fn last_seen(&self, machine: &MachineId) -> Option<u64> {
        self.of(machine).last().map(|(at, _)| *at)
    }

    /// Gradients a second over the machine's last minute; None if the journal is too short to say.
    pub fn rate(&self, machine: &MachineId) -> Option<f64> {
        let grown = self.of(machine);
        let (end, height) = *grown.last()?;
        let (begin, from) = *grown.iter().find(|(at, _)| at + RATE_MS >= end)?;
        (end > begin).then(|| height.saturating_sub(from) as f64 * 1e3 / (end - begin) as f64)
    }

    /// When the machine's revocation became known here, Unix ms.
    pub fn revoked(&self, machine: &MachineId) -> Option<u64> {
        let name = machine.to_string();
        self.revoked.iter().find(|(revoked, _)| *revoked == name).map(|(_, at)| *at)
    }

    /// When this node first had the first `heights` of every machine, Unix ms.
    pub fn reached(&self, heights: &[(MachineId, u64)]) -> Option<u64> {
        let when = |(machine, height): &(MachineId, u64)| match height {
            0 => Some(0),
            height => self.came(machine, height - 1).map(|(_, at)| at),
        };
        heights.iter().map(when).try_fold(0, |latest, at| Some(latest.max(at?)))
    }

    /// (Unix ms, weights' digest, what they held), in order.
    pub fn weights(&self) -> &[(u64, String, Heights)] {
        &self.weights
    }

    /// Looks at the held-out text, in order.
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}
