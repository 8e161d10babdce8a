//! Every limit of the agent, each with its reason.

use std::time::Duration;

/// Deliveries of one agent: a node with more identities on disk is better served by its socket.
pub const DELIVERIES_MAX: usize = 4096;
/// Certificates whose deliveries ended and that the CA is told of: three for each delivery that there may be.
pub const RELEASES_MAX: usize = 3 * DELIVERIES_MAX;
/// Of these in one message: what the CA takes.
pub const RELEASES_PER_MESSAGE_MAX: usize = 64;
/// Bytes of a configuration file: ten times what 4,096 deliveries at 100 bytes need would be a mistake.
pub const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of a join token file: a token is at most 4 KiB, the rest would be something else.
pub const TOKEN_FILE_BYTES_MAX: usize = 8 * 1024;
/// CA addresses an agent tries.
pub const ADDRESSES_MAX: usize = 32;
/// Entries one agent may be offered: the CA's own limit for one set.
pub const ENTRIES_MAX: usize = 10_000;
/// Asks in one Mint message: the CA's limit.
pub const ASKS_PER_MESSAGE_MAX: usize = 64;
/// Bytes of one message to the CA: the CA's limit.
pub const MESSAGE_UP_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one message from the CA, with 64 KiB of room for framing.
pub const MESSAGE_DOWN_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;
/// Messages that wait for the stream upwards: one full round of asks and the acknowledgements between.
pub const STREAM_QUEUE_MAX: usize = 64;
/// Events that wait for the agent's one task: a stream reads no further while they do.
pub const INBOX_MAX: usize = 256;
/// Events a slow observer may fall behind before it is told that it lost some.
pub const EVENTS_MAX: usize = 1024;
/// Deliveries written at once: more only queue in the disk.
pub const WRITERS_MAX: usize = 4;
/// Bytes of a revocation snapshot, as for every subscriber.
pub const SNAPSHOT_BYTES_MAX: usize = mintage_subscriber::limits::SNAPSHOT_BYTES_MAX;
/// Bytes of all lists of revoked certificates: the largest of three CA keys.
pub const CRLS_BYTES_MAX: usize = 48 * 1024 * 1024;
/// Bytes of the same as PEM, made once for all deliveries: a third more, and a line end for every 64 characters.
pub const CRLS_PEM_BYTES_MAX: usize = CRLS_BYTES_MAX / 2 * 3;
const _: () = assert!(
    CRLS_PEM_BYTES_MAX <= mintage_sys::swap::FILE_BYTES_MAX,
    "what is taken is delivered"
);
/// Bytes of lists in one answer on the socket: gRPC clients refuse more than 4 MiB, identities and bundle included.
pub const CRLS_ON_SOCKET_BYTES_MAX: usize = 1024 * 1024;
/// Files looked through for saved lists: one for each key that the CA had in years.
pub const CRL_FILES_MAX: usize = 1024;
/// Connections of one user to the socket unless `[limits]` says otherwise: ten programs with ten clients each.
pub const CONNECTIONS_PER_USER: u32 = 100;
/// Connections to the socket in all unless `[limits]` says otherwise.
pub const CONNECTIONS: u32 = 1024;
/// The most connections that `[limits]` may allow: each takes four descriptors of the 16,384 that the unit gives.
pub const CONNECTIONS_MAX: u32 = 3500;
/// Concurrent calls of one connection unless `[limits]` says otherwise: a program watches X.509 and bundles, and asks now
/// and then.
pub const STREAMS_PER_CONNECTION: u32 = 64;
/// The most concurrent calls of one connection that `[limits]` may allow: a proxy's that asks for many.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
/// Pings, settings, priorities and unknown frames that may come at once: a client that measures its window sends a ping for
/// each answer.
pub const CONTROL_FRAMES_BURST: u32 = 1000;
/// The same each second after that.
pub const CONTROL_FRAMES_PER_SECOND: u32 = 50;
/// Open streams of one user over all its connections unless `[limits]` says otherwise.
pub const STREAMS_PER_USER: u32 = 256;
/// Open streams in all unless `[limits]` says otherwise: each costs about 10 KB.
pub const STREAMS: u32 = 4096;
/// The most open streams that `[limits]` may allow: 650 MB.
pub const STREAMS_MAX: u32 = 65_536;
/// Identities held in memory for socket callers unless `[limits]` says otherwise.
pub const WORKLOADS: u32 = 2048;
/// The most identities in memory that `[limits]` may allow: one of each entry.
pub const WORKLOADS_MAX: u32 = 10_000;
/// Seconds that an answer on a stream waits to be read unless `[limits]` says otherwise. Whoever reads nothing for so long
/// holds answers that nobody else has any more.
pub const UNREAD_SECONDS: u32 = 60;
/// The longest such wait.
pub const UNREAD_SECONDS_MAX: u32 = 3600;
/// Bytes of one request on the socket: the SPIFFE requests are empty or name one audience.
pub const LOCAL_REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a bundle map that is looked at before it is replaced: a thousand roots.
pub const BUNDLE_MAP_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Other trust domains whose bundles are taken: as many as a CA sends.
pub const FEDERATED_MAX: usize = 64;
/// Bytes of another trust domain's name: with its ending it is the name of a delivered file, of which the limit is 224.
pub const FEDERATED_NAME_BYTES_MAX: usize = 200;
/// Bytes of the file that keeps them: 256 KB of certificates and keys in Base64, and the names of ten thousand entries.
pub const FEDERATED_FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one request for SDS: an Envoy names each of its extensions in it, which takes some 60 KB.
pub const SDS_REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Names that one SDS stream asks for: an Envoy opens a stream for each.
pub const SDS_NAMES_MAX: usize = 256;
/// Bytes of one name: the longest SPIFFE ID.
pub const SDS_NAME_BYTES_MAX: usize = 2048;
/// Contexts kept of one name, for callers who federate with different trust domains: a node has few kinds of them.
pub const SDS_VARIANTS_MAX: usize = 16;
/// Bytes of all names that one SDS stream asks for: 128 for each of the most there may be, so that the 256 streams of one
/// user remember less than 20 MB.
pub const SDS_NAMES_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a version that a client brings along: ours have 32, what is longer is none of ours.
pub const SDS_VERSION_BYTES_MAX: usize = 64;
/// Bytes of all lists of revoked certificates in one validation context: one key's 250,000 entries, and room. Encoded once
/// for each name and validator, they are a hundred megabytes at most.
pub const SDS_CRLS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Status, WhoAmI and Explain calls of one user under way at once: a person or a script, not a flood.
pub const LOCAL_CALLS_PER_UID_MAX: usize = 4;
/// Status, WhoAmI and Explain calls in all under way at once.
pub const LOCAL_CALLS_MAX: usize = 16;
/// Questions in one look-up call: with what they hold they fill the message.
pub const LOOKUP_QUESTIONS_MAX: usize = 64;
/// Bytes of one look-up call: 64 questions by serial, or 16 chains of 4 KiB.
pub const LOOKUP_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Look-up calls of one user that are being answered at once: each may cost 64 times two signature checks.
pub const LOOKUP_CALLS_PER_UID_MAX: usize = 4;
/// Look-up calls in all that are being answered at once.
pub const LOOKUP_CALLS_MAX: usize = 16;
/// Certificates of one user's proxies that are under way at once, waiting for the most part: more than one user has
/// connections, and what they show is 2 MB at most.
pub const CHECKS_PER_UID_MAX: usize = 128;
/// Certificates of all proxies under way at once: 8 MB of what they show.
pub const CHECKS_WAITING_MAX: usize = 512;
/// Certificates of one user's proxies whose signatures are being checked: at 0.2 ms each, ten thousand in a second.
pub const CHECKS_RUNNING_PER_UID_MAX: usize = 2;
/// Certificates of all proxies whose signatures are being checked: each keeps a core busy.
pub const CHECKS_RUNNING_MAX: usize = 4;
/// A proxy waits no longer for its turn: its client waits too.
pub const CHECK_WAIT: Duration = Duration::from_secs(1);
/// Bytes of one question of Envoy's: a request's head of 60 KiB, the certificates of both ends, and room; bodies need not
/// be sent here.
pub const EXT_AUTHZ_REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Bytes of an HTTP request's head on the socket: an escaped certificate of 16 KiB takes 25 KiB.
pub const HTTP_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header fields of an HTTP request on the socket: a proxy passes on what its client sent.
pub const HTTP_FIELDS_MAX: usize = 128;
/// Bytes of path and query: a SPIFFE ID of 2,048 bytes, escaped, and two hashes.
pub const HTTP_TARGET_BYTES_MAX: usize = 8 * 1024;
/// JWT-SVIDs kept: 500 identities with eight audiences each, at about 3 KiB.
pub const JWTS_MAX: usize = 4096;
/// FetchJWTSVID and ValidateJWTSVID calls of one user under way at once.
pub const JWT_CALLS_PER_UID_MAX: usize = 32;
/// FetchJWTSVID and ValidateJWTSVID calls in all under way at once.
pub const JWT_CALLS_MAX: usize = 512;
/// New JWT-SVIDs that one entry asks the CA for within [`JWT_ASK_WINDOW`]: with tokens kept for half of their life, five
/// hundred audiences; past it a workload would fill the ledger with audiences that it makes up.
pub const JWT_ASKS_PER_ENTRY_MAX: u32 = 200;
/// How far the clock of whoever issued a JWT-SVID may differ at validation: certificates are backdated by as much.
pub const JWT_LEEWAY_SECONDS: u32 = 30;
/// Bytes of a receipt's origin, the name of a log: the CA's is a trust domain and two short words.
pub const RECEIPT_ORIGIN_BYTES_MAX: usize = 512;
/// Bytes of one proof of a receipt: a record of 60 KiB in Base64, 64 hashes, and a checkpoint with its cosignatures.
pub const PROOF_BYTES_MAX: usize = 128 * 1024;
/// Hashes of one path: the depth of a tree that no log outgrows.
pub const PROOF_HASHES_MAX: usize = 64;
/// Receipts whose proofs are asked for at once: 4,096 deliveries that are renewed over a minute, at a second or so each,
/// are served in five.
pub const RECEIPTS_AT_ONCE_MAX: usize = 16;
/// Tries for one proof: with doubled waits they take about five minutes, half of a usual lifetime.
pub const RECEIPT_TRIES_MAX: u32 = 8;
/// Chains in one ReportSeen call: with what they hold they fill the message.
pub const SEEN_CHAINS_MAX: usize = 16;
/// Bytes of one ReportSeen call: 16 chains of 4 KiB.
pub const SEEN_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// ReportSeen calls of one user under way at once: each costs up to 48 signature checks.
pub const SEEN_CALLS_PER_UID_MAX: usize = 1;
/// ReportSeen calls in all under way at once: a user's flood holds one of them.
pub const SEEN_CALLS_MAX: usize = 4;
/// Certificates of one Seen message: the CA's limit.
pub const SEEN_BATCH_MAX: usize = 64;
/// Certificates remembered as told: at about 100 bytes each, 1.6 MB.
pub const SEEN_TOLD_MAX: usize = 16_384;
/// File descriptors that callers of the socket leave to the agent itself, or a quarter of a small limit: 64 that were just
/// accepted and will take three more each, and as many for the CA, deliveries, hooks and pages.
pub const DESCRIPTORS_RESERVED: u64 = 256;
/// Looks at processes under way at once, executables not hashed: a look takes some hundred microseconds, unless a file system
/// does not answer.
pub const LOOKS_MAX: usize = 8;
/// Of these, of one user.
pub const LOOKS_PER_UID_MAX: usize = 4;
/// A look begins and ends within this time each; then the connection is closed, or the stream ended.
pub const LOOK_WAIT: Duration = Duration::from_secs(5);
/// Looks that did not end in time and whose threads still wait, beside those under way. What goes beyond keeps its place among
/// those under way, so that threads have a limit.
pub const LOOKS_OVERDUE_MAX: usize = 8;
/// Of these, of one user.
pub const LOOKS_OVERDUE_PER_UID_MAX: usize = 4;
/// Executables hashed at once: each keeps a core busy.
pub const HASHES_MAX: usize = 4;
/// Of these, of one user.
pub const HASHES_PER_UID_MAX: usize = 1;
/// A hash begins and ends within this time each: the longest executable from a disk of 10 MB/s. What is hashed afterwards is
/// remembered for the next connection.
pub const HASH_WAIT: Duration = Duration::from_secs(30);

/// Whoever connects to the socket says which protocol it speaks within this time; that of HTTP/2 is begun within as long
/// again.
pub const FIRST_OCTETS_WAIT: Duration = Duration::from_secs(10);
/// An HTTP request's head comes within this time; the next one on an idle connection too. Longer than nginx keeps an idle
/// connection to an upstream (60 s), so that it never sends into one that is being closed.
pub const HTTP_HEAD_WAIT: Duration = Duration::from_secs(75);
/// An answer under way on the socket when the agent stops is taken within this time; then its connection is closed.
pub const SOCKET_LAST_WAIT: Duration = Duration::from_secs(1);
/// Who was told to come again waits for this long: a heartbeat comes each five seconds.
pub const LOOKUP_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A TCP connection to the CA is made within this time.
pub const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A TLS handshake with the CA ends within this time.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);
/// A unary call to the CA ends within this time.
pub const CALL_WAIT: Duration = Duration::from_secs(10);
/// An idle stream is probed this often, so that a silent network is noticed.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
/// A probe is answered within this time, or the connection is given up.
pub const KEEP_ALIVE_WAIT: Duration = Duration::from_secs(5);
/// First wait before the CA is tried again; doubled at each failure.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(250);
/// Longest wait before the CA is tried again, and never more than a tenth of the shortest lifetime held: a certificate of
/// 60 s that is due at half of its life has then several tries left.
pub const RECONNECT_MAX: Duration = Duration::from_secs(15);
/// A stream that lived this long starts the waits anew.
pub const STREAM_GOOD_AFTER: Duration = Duration::from_secs(10);
/// Lists of revoked certificates are asked for again after this time, when they broke off or one was not taken.
pub const CRLS_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// An ask without an answer counts as failed after this time, or after a twentieth of the lifetime where that is less.
pub const ASK_WAIT: Duration = Duration::from_secs(10);
/// The same ask (request id and key) is sent again for this long; afterwards a new key is made.
pub const ASK_REUSE: Duration = Duration::from_secs(30);
/// Shortest time between two asks of one identity, whatever the reason: no loop can be hotter, and nobody who asks for a
/// renewal notices the wait.
pub const ASK_GAP: Duration = Duration::from_millis(100);
/// Over this time, or a twentieth of the lifetime where that is less, asks are spread whose certificates have ended: nodes
/// that wake together do not ask together, and no workload waits for longer.
pub const ENDED_SPREAD_MAX: Duration = Duration::from_secs(5);
/// The clocks are compared at least this often, so that a suspended or stepped clock is noticed.
pub const TICK_MAX: Duration = Duration::from_secs(5);
/// See [`JWT_ASKS_PER_ENTRY_MAX`].
pub const JWT_ASK_WINDOW: Duration = Duration::from_secs(60);
/// A caller waits this long for a JWT-SVID that is being minted.
pub const JWT_WAIT: Duration = Duration::from_secs(5);
/// After a refused ask for a JWT-SVID the same is not asked again for this long, whoever calls.
pub const JWT_ASK_GAP: Duration = Duration::from_secs(1);
/// A socket caller waits this long for identities that are being minted; then it gets those that are there.
pub const FIRST_SVID_WAIT: Duration = Duration::from_secs(5);
/// An expired agent may re-join for this long after its certificate ended.
pub const REJOIN_WITHIN: Duration = Duration::from_secs(7 * 24 * 3600);
/// A pair that could not be put in place is tried again after this time, even while the CA cannot be reached.
pub const PLACE_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Lists of revoked certificates that could not be put beside a pair are tried again after this time: each try may write
/// [`CRLS_PEM_BYTES_MAX`] and the reason is an operator's to mend.
pub const LISTS_PLACE_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The proof of a receipt is first asked for after this time, and up to as long again: the CA signs a checkpoint each
/// second.
pub const RECEIPT_FIRST: Duration = Duration::from_secs(1);
/// First wait after a try for a proof that failed; doubled at each further one.
pub const RECEIPT_RETRY_FIRST: Duration = Duration::from_secs(2);
/// Longest wait between two tries for a proof.
pub const RECEIPT_RETRY_MAX: Duration = Duration::from_secs(120);
/// The CA answers a call for a proof within this time: it waits up to 12 s for a checkpoint and its cosignatures.
pub const RECEIPT_CALL_WAIT: Duration = Duration::from_secs(20);
/// Seen messages go to the CA at most this often; the first of a quiet while at once.
pub const SEEN_EVERY: Duration = Duration::from_secs(5);
/// A certificate that is still in use is told again after this time: a message may have been lost with its stream.
pub const SEEN_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Bytes of a key store's password: `keytool` takes no fewer.
pub const STORE_PASSWORD_BYTES_MIN: usize = 6;
/// Bytes of a key store's password: more would guard nothing that these do not.
pub const STORE_PASSWORD_BYTES_MAX: usize = 128;
/// Hooks of one delivery: a server, what stands in front of it, and what watches both.
pub const HOOKS_PER_DELIVERY_MAX: usize = 8;
/// Entries for callers of the socket whose problems the readiness page tells; the log has them all.
pub const WORKLOAD_PROBLEMS_MAX: usize = 10;
/// Deliveries whose hooks run at once: reloads of one node's servers compete for its cores.
pub const HOOKS_AT_ONCE_MAX: usize = 4;
/// Hooks that have run for this long wait for something rather than work: they make room for those of another delivery.
pub const HOOKS_WORK_MAX: Duration = Duration::from_secs(2);
/// Deliveries whose hooks have made room and go on: each may hold a process and a few descriptors.
pub const HOOKS_ASIDE_MAX: usize = 256;
/// Parts of a hook's command.
pub const HOOK_ARGUMENTS_MAX: usize = 64;
/// Bytes of one part of a hook's command, of a path and of a name.
pub const HOOK_ARGUMENT_BYTES_MAX: usize = 4096;
/// Bytes of a unit's name: systemd's own limit.
pub const UNIT_BYTES_MAX: usize = 255;
/// Bytes of what a hook answers or prints that are read, and of those the last that are told.
pub const HOOK_OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// What a program left behind may hold its output open; it is read for this long after the program's own end.
pub const HOOK_OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// Bytes of a file with the number of a process.
pub const PID_FILE_BYTES_MAX: u64 = 64;
/// A hook counts as failed after this time, unless its own says otherwise.
pub const HOOK_WAIT: Duration = Duration::from_secs(10);
/// Longest time of a hook: a server that restarts slowly.
pub const HOOK_WAIT_MAX: Duration = Duration::from_secs(300);
/// First wait after hooks that failed; doubled at each further failure.
pub const HOOK_RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest wait between two tries, and never more than a tenth of the certificate's lifetime.
pub const HOOK_RETRY_MAX: Duration = Duration::from_secs(60);
/// After so many looks that did not find the new certificate served the hooks are run again, and never after the last of
/// these: with doubled waits that is after a quarter of a minute, three minutes and eleven. A server that is restarted each
/// minute, because `effect` names another one, serves nobody.
pub const HOOKS_AGAIN_AFTER_LOOKS: [u32; 3] = [4, 8, 16];
/// The new certificate is served within this time after the hooks, unless the configuration says otherwise.
pub const EFFECT_WITHIN: Duration = Duration::from_secs(10);
/// First wait between two looks at what is served; doubled at each.
pub const EFFECT_LOOK_FIRST: Duration = Duration::from_millis(50);
/// Longest wait between two looks.
pub const EFFECT_LOOK_MAX: Duration = Duration::from_secs(2);
/// Bytes of the kept entries: ten thousand entries of a few hundred bytes each, and room for long ones.
pub const ENTRIES_FILE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a kept key and chain: a chain is at most 48 KiB, in PEM a third more.
pub const PAIR_BYTES_MAX: usize = 80 * 1024;
/// Names looked through among what is kept: a pair, one that was set aside and a left-over for each identity.
pub const KEPT_NAMES_MAX: usize = 3 * WORKLOADS_MAX as usize + 16;
/// Pairs written in one batch: with two flushes each it is over within a second on most disks, and others get their turn.
pub const KEPT_AT_ONCE_MAX: usize = 64;
/// The kept entries are written at most so often, unless a pair is written too: a burst of changes is one write.
pub const ENTRIES_KEPT_EVERY: Duration = Duration::from_secs(1);
/// Lines about callers of the socket logged within one second: a line has a few KiB at most.
pub const CALLER_LINES_MAX: usize = 64;
