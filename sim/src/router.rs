//! The routers of homes: who can call whom, directly or through a relay.

use serde::{Deserialize, Serialize};

use crate::event::Number;

/// How two machines come together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From one to the other.
    Direct,
    /// Through a machine that both are connected with.
    Relayed(Number),
}

/// What a machine is behind. Calls that a machine makes get out of all of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Router {
    /// Nothing, or a forwarded port: everyone can call it, and it relays.
    #[default]
    Open,
    /// Whoever calls the port that it called others from comes in; others learn that port from a relay.
    FullCone,
    /// Whoever it calls at the same time comes in.
    PortRestricted,
    /// Each of its calls comes from another port, which nobody can know.
    Symmetric,
    /// No translation, but only answers come in.
    Firewall,
}

impl Router {
    /// Whether everyone can call a machine behind it.
    pub fn is_open(self) -> bool {
        self == Self::Open
    }

    /// Whether two machines that a relay brings together can call each other directly (DCUtR).
    pub fn meets(self, other: Self) -> bool {
        let is_easy = |router| matches!(router, Self::Open | Self::FullCone);
        is_easy(self) || is_easy(other) || (self != Self::Symmetric && other != Self::Symmetric)
    }
}

/// Machines that are behind routers of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Home {
    pub machines: usize,
    /// What they are behind.
    pub router: Router,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_routers_meet_unless_one_is_symmetric_and_the_other_no_help() {
        use Router::{Firewall, FullCone, Open, PortRestricted, Symmetric};
        for (a, b, expected) in [
            (Symmetric, Symmetric, false),
            (Symmetric, PortRestricted, false),
            (Symmetric, Firewall, false),
            (Symmetric, FullCone, true),
            (Symmetric, Open, true),
            (PortRestricted, PortRestricted, true),
            (PortRestricted, Firewall, true),
        ] {
            assert_eq!((a.meets(b), b.meets(a)), (expected, expected), "{a:?}, {b:?}");
        }
    }
}
