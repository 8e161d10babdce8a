//! The signs of life of a filter: what heartbeats move while its serials stay.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use mintage_identity::UnixTime;
use mintage_sys::map::ReadMap;

use crate::map_layout;

/// What heartbeats move while the filter stays: the last sign of life and the horizon.
#[derive(Clone)]
pub(crate) enum Pulse {
    /// Moved by a replica of this process.
    Own(Arc<OwnPulse>),
    /// Moved by the writer of the map.
    Mapped(Arc<ReadMap>),
}

/// A pulse of this process.
pub(crate) struct OwnPulse {
    heartbeat_ms: AtomicI64,
    horizon_ms: AtomicI64,
}

impl OwnPulse {
    pub(crate) fn new(heartbeat: UnixTime, horizon: UnixTime) -> Self {
        Self {
            heartbeat_ms: AtomicI64::new(heartbeat.millis()),
            horizon_ms: AtomicI64::new(horizon.millis()),
        }
    }
}

impl Pulse {
    /// Raises both, which never go back. A mapped pulse is not ours to move.
    pub(crate) fn raise(&self, heartbeat: UnixTime, horizon: UnixTime) {
        if let Self::Own(own) = self {
            own.heartbeat_ms.fetch_max(heartbeat.millis(), Ordering::Release);
            own.horizon_ms.fetch_max(horizon.millis(), Ordering::Release);
        }
    }

    #[inline]
    pub(crate) fn heartbeat(&self) -> UnixTime {
        UnixTime::from_millis(match self {
            Self::Own(own) => own.heartbeat_ms.load(Ordering::Acquire),
            Self::Mapped(map) => map_layout::number(map, map_layout::HEARTBEAT) as i64,
        })
    }

    #[inline]
    pub(crate) fn horizon(&self) -> UnixTime {
        UnixTime::from_millis(match self {
            Self::Own(own) => own.horizon_ms.load(Ordering::Acquire),
            Self::Mapped(map) => map_layout::number(map, map_layout::HORIZON) as i64,
        })
    }
}
