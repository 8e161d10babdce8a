//! Signals by name, and what a program gets when its files have changed.

use std::str::FromStr;

use tokio::signal::unix::SignalKind;

/// A signal that is passed on or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signal {
    kind: SignalKind,
    ends: bool,
}

pub(super) const HUP: Signal = Signal::of(SignalKind::hangup(), false);
pub(super) const INT: Signal = Signal::of(SignalKind::interrupt(), true);
pub(super) const QUIT: Signal = Signal::of(SignalKind::quit(), true);
pub(super) const TERM: Signal = Signal::of(SignalKind::terminate(), true);
pub(super) const USR1: Signal = Signal::of(SignalKind::user_defined1(), false);
pub(super) const USR2: Signal = Signal::of(SignalKind::user_defined2(), false);

impl Signal {
    const fn of(kind: SignalKind, ends: bool) -> Self {
        Self { kind, ends }
    }

    pub(super) fn kind(self) -> SignalKind {
        self.kind
    }

    /// Its number on this machine.
    pub(super) fn number(self) -> i32 {
        self.kind.as_raw_value()
    }

    /// Whether who sends it wants the program to end.
    pub(super) fn ends(self) -> bool {
        self.ends
    }
}

/// What follows a change of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnRotation {
    /// The program is ended by SIGTERM and started anew.
    Restart,
    /// It gets this signal.
    Signal(Signal),
    /// It looks at its files by itself.
    Nothing,
}

impl FromStr for OnRotation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "restart" => Self::Restart,
            "nothing" => Self::Nothing,
            "signal=HUP" => Self::Signal(HUP),
            "signal=USR1" => Self::Signal(USR1),
            "signal=USR2" => Self::Signal(USR2),
            _ => return Err("it is restart, signal=HUP, signal=USR1, signal=USR2 or nothing".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_change_is_read_exactly() {
        assert_eq!("restart".parse(), Ok(OnRotation::Restart));
        assert_eq!("signal=USR1".parse(), Ok(OnRotation::Signal(USR1)));
        for bad in ["", "Restart", "signal", "signal=", "signal=hup", "signal=KILL", "HUP"] {
            assert!(bad.parse::<OnRotation>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_signals_that_end_end() {
        assert!(TERM.ends() && INT.ends() && QUIT.ends());
        assert!(!HUP.ends() && !USR1.ends() && !USR2.ends());
    }
}
