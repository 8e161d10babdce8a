//! The import table of the house. A changed line is a decision: it goes into a commit of its own, with the reason.

/// What one crate may import of the others.
#[derive(Clone, Copy, Debug)]
pub enum May {
    /// These folders and no other.
    Only(&'static [&'static str]),
    /// Everything but these folders.
    AllBut(&'static [&'static str]),
}

/// One crate, by its folder's name, and what it may import in normal and build dependencies.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The folder below `crates/`, or at the top level; the package is `mintage-<folder>`.
    pub folder: &'static str,
    /// Its allowed imports.
    pub may: May,
}

const fn room(folder: &'static str, may: May) -> Room {
    Room { folder, may }
}

/// The table. What is absent is the point: a verifier has no wire code, an agent has nothing that signs or reads records.
pub const ROOMS: &[Room] = &[
    room("identity", May::Only(&[])),
    room("sys", May::Only(&[])),
    room("svid", May::Only(&["identity"])),
    room("attest", May::Only(&["identity", "sys"])),
    room("policy", May::Only(&["identity", "attest"])),
    room("ledger", May::Only(&["identity"])),
    room("mint", May::Only(&["identity", "svid", "policy", "ledger"])),
    room("revocation", May::Only(&["identity", "sys"])),
    room("revocation-ffi", May::Only(&["identity", "revocation"])),
    room("state", May::Only(&["identity", "policy", "ledger", "revocation"])),
    room("proto", May::Only(&["identity"])),
    room("verifier", May::Only(&["identity", "svid", "revocation"])),
    room("verifier-tokio", May::Only(&["identity", "revocation", "verifier"])),
    room(
        "subscriber",
        May::Only(&["identity", "svid", "proto", "revocation", "verifier"]),
    ),
    room(
        "agent",
        May::Only(&[
            "identity",
            "sys",
            "svid",
            "attest",
            "proto",
            "revocation",
            "subscriber",
            "verifier",
            "verifier-tokio",
        ]),
    ),
    room(
        "ca",
        May::AllBut(&[
            "agent",
            "revocation-ffi",
            "cli",
            "xtask",
            "certs-dev",
            "tests",
            "benches",
        ]),
    ),
    room("cli", May::AllBut(&["xtask", "certs-dev", "tests", "benches"])),
    room("xtask", May::Only(&[])),
    room(
        "certs-dev",
        May::AllBut(&["agent", "ca", "cli", "xtask", "tests", "benches"]),
    ),
    // Both may import everything; load generators use the kit of the tests.
    room("tests", May::AllBut(&["benches"])),
    room("benches", May::AllBut(&[])),
];

/// An import that no kind of dependency may bring in, directly or through others, and the reason.
#[derive(Clone, Copy, Debug)]
pub struct Never {
    /// The importing folder.
    pub from: &'static str,
    /// What it may not reach.
    pub to: &'static str,
    /// Why.
    pub why: &'static str,
}

/// Holds for development dependencies too.
pub const NEVER: &[Never] = &[
    Never {
        from: "agent",
        to: "mint",
        why: "a node can never sign",
    },
    Never {
        from: "agent",
        to: "ledger",
        why: "a node can never read the inventory",
    },
    Never {
        from: "agent",
        to: "state",
        why: "a node can never read the inventory",
    },
    Never {
        from: "verifier",
        to: "proto",
        why: "nothing on a handshake path opens a socket",
    },
    Never {
        from: "verifier-tokio",
        to: "proto",
        why: "nothing on a handshake path asks another service",
    },
    Never {
        from: "revocation",
        to: "proto",
        why: "a verifier uses it alone",
    },
];

/// Outside packages that a crate may not bring in, directly or through others; development dependencies are free.
#[derive(Clone, Copy, Debug)]
pub struct Without {
    /// The folder.
    pub from: &'static str,
    /// What it does without.
    pub packages: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

/// What waits for something, or opens a socket.
const RUNTIMES_AND_NETWORK: &[&str] = &[
    "async-io",
    "async-std",
    "h2",
    "hyper",
    "mio",
    "quinn",
    "reqwest",
    "smol",
    "socket2",
    "tokio",
    "tonic",
    "ureq",
];

/// Crates that answer from memory alone.
pub const WITHOUT: &[Without] = &[
    Without {
        from: "revocation",
        packages: RUNTIMES_AND_NETWORK,
        why: "a verifier asks it in the middle of a handshake, in any program; it waits for nobody",
    },
    Without {
        from: "verifier",
        packages: RUNTIMES_AND_NETWORK,
        why: "nothing on a handshake path opens a socket, or needs a runtime of its own",
    },
];

/// The one crate that only its named importers may name at all.
pub const CA: &str = "ca";
/// Who may import the CA, in any kind of dependency.
pub const CA_IMPORTERS: &[&str] = &["cli", "tests", "benches"];

/// An outside crate whose normal dependents are named.
#[derive(Clone, Copy, Debug)]
pub struct Home {
    /// The outside package.
    pub package: &'static str,
    /// The folders that may depend on it; development dependencies are free.
    pub folders: &'static [&'static str],
    /// Why these.
    pub why: &'static str,
}

/// Outside crates with a home.
pub const HOMES: &[Home] = &[
    Home {
        package: "rcgen",
        folders: &["mint", "agent", "cli", "certs-dev", "tests", "benches"],
        why: "certificates are built in mint; agent, cli, certs-dev, tests and benches make requests for them",
    },
    Home {
        package: "sled",
        folders: &["state"],
        why: "a database that can be thrown away has one owner",
    },
    Home {
        package: "axum",
        folders: &["ca", "agent", "console"],
        why: "HTTP faces are health, metrics and the console; everything else is gRPC",
    },
    Home {
        package: "object_store",
        folders: &["ca"],
        why: "only the CA's upload, behind a feature, speaks to an object store",
    },
];

/// Folders whose crates may hold unsafe code.
pub const UNSAFE_ALLOWED: &[&str] = &["sys", "revocation-ffi"];

/// Longest chain of imports inside the house, in edges: identity, attest, policy, mint, ca, cli is the longest wanted.
pub const DEPTH_MAX: usize = 5;

/// The row of a folder.
pub fn room_of(folder: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.folder == folder)
}

impl May {
    /// Whether the import is allowed.
    pub fn import(self, folder: &str) -> bool {
        match self {
            Self::Only(allowed) => allowed.contains(&folder),
            Self::AllBut(refused) => !refused.contains(&folder),
        }
    }
}
