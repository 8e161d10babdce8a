//! Every limit of the CA's edges, each with its reason.

use std::time::Duration;

/// A TLS handshake and the HTTP/2 preface behind it must be over within this: five round trips on the worst links fit,
/// slow-loris does not.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have not finished their handshake, in all: at 220 us of CPU each, under half a second of work.
pub(crate) const HANDSHAKES_MAX: usize = 1024;
/// Connections of one address (IPv4) or /64 (IPv6) that have not finished their handshake.
pub(crate) const HANDSHAKES_PER_SOURCE_MAX: usize = 64;
/// Finished connections, in all; at about 30 KB each this is 600 MB.
pub(crate) const CONNECTIONS_MAX: usize = 20_000;
/// How long the acceptor rests for lack of file descriptors or after an error; doubled up to the maximum while it lasts.
pub(crate) const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest rest of the acceptor.
pub(crate) const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Descriptors that no caller over TCP may take: 64 administrators, and what ledger, state and health face open at once.
/// At most a quarter of the process's limit.
pub(crate) const DESCRIPTORS_RESERVED: u64 = 128;
/// Accepted connections that wait for the HTTP/2 server.
pub(crate) const ACCEPTED_QUEUE: usize = 64;
/// HTTP/2 streams of one connection (RFC 9113, section 5.1.2).
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 100;
/// Bytes of one header list (RFC 9113, section 6.5.2).
pub(crate) const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Frames that belong to no call (PING, SETTINGS, PRIORITY) that a connection may send at once: clients that measure their
/// line send a ping for each round trip while data flows, some hundreds in all.
pub(crate) const CONTROL_FRAMES_BURST: u32 = 1_000;
/// Such frames that a connection may send every second after that; a keepalive is one in ten seconds or fewer.
pub(crate) const CONTROL_FRAMES_PER_SECOND: u64 = 50;
/// Calls that a connection may begin at once: an auditor who reads the log record by record makes many.
pub(crate) const CALLS_BURST: u32 = 4_000;
/// Calls that a connection may begin every second after that: a tenth of what one core answers.
pub(crate) const CALLS_PER_SECOND: u64 = 1_000;
/// Streams reset by the peer that wait to be accepted (rapid reset) before the connection is closed.
pub(crate) const PENDING_RESETS_MAX: usize = 20;
/// Batches that are signed beside one for each core, so that no core waits while a finished batch is handed on.
pub(crate) const SIGNING_AHEAD: usize = 1;
/// HTTP/2 keep-alive interval; a peer that does not answer within [`KEEPALIVE_TIMEOUT`] is gone.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// See [`KEEPALIVE_INTERVAL`].
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages to one agent that wait in its stream's queue; the slowest agent is cut off rather than kept in memory.
pub(crate) const STREAM_QUEUE: usize = 256;
/// How long a stream waits for its first message: as long as a handshake may take.
pub(crate) const HELLO_WAIT: Duration = Duration::from_secs(5);
/// Rounds of beginning a stream again after a revocation was published meanwhile; after the last its agent learns by the next
/// heartbeat that it missed one.
pub(crate) const JOIN_ROUNDS_MAX: usize = 4;
/// `Mint` messages of one stream that are in work at once.
pub(crate) const MINTS_IN_WORK_PER_STREAM: usize = 4;
/// Messages of one stream about certificates whose delivery ended that are in work at once: all deliveries that an agent may have.
pub(crate) const RELEASES_IN_WORK_PER_STREAM: usize = 192;
/// Certificates in one such message.
pub(crate) const RELEASED_PER_MESSAGE_MAX: usize = 64;
/// Rounds of deciding again after the state moved under a decision.
pub(crate) const DECIDE_ROUNDS_MAX: usize = 16;
/// Commands that wait for their turn to take something away, at one flush of the log each: a few seconds of work.
pub(crate) const COMMANDS_WAITING_MAX: usize = 1_024;
/// Longest wait for that turn: past it something in front is stuck.
pub(crate) const COMMAND_TURN_WAIT: Duration = Duration::from_secs(30);
/// Serial draws before a broken random source is admitted.
pub(crate) const SERIAL_DRAWS_MAX: usize = 32;
/// Connections to the admin socket at once.
pub(crate) const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Attestations in work at once: each costs a signature check and an fsync.
pub(crate) const ATTESTATIONS_IN_WORK: usize = 128;
/// How long a unary reply waits for its record to be applied before the caller is told to ask again.
pub(crate) const APPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The hash of a published snapshot is recorded at most this often: with a set that changes all the time, 1,440 small records a
/// day.
pub(crate) const SNAPSHOT_RECORD_INTERVAL: Duration = Duration::from_secs(60);
/// Interval of revocation heartbeats.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How long a revocation waits for the index to hold what was recorded before it: half of the time until it is tried again.
pub(crate) const PUBLISH_INDEX_WAIT: Duration = Duration::from_millis(2_500);
/// Most records that a revocation reads out of the ledger because the index lacks them: minutes of issuance at a thousand a
/// second, read within a second.
pub(crate) const INDEX_LAG_READ_MAX: u64 = 262_144;
/// How long signed revocation news may be taken up; whoever comes later gets new news.
pub(crate) const NEWS_LIFETIME: Duration = Duration::from_secs(3600);
/// Largest snapshot or delta that travels inside a stream: half of any message. Larger snapshots are fetched by reference.
pub(crate) const NEWS_INLINE_BYTES_MAX: usize = 512 * 1024;
/// How old a snapshot may be that is given to one more reader: young enough to be fresh until the first heartbeat.
pub(crate) const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(50);
/// How old a heartbeat may be that is given to a follower that comes: a fleet that comes back at once is served by one.
pub(crate) const CATCH_UP_HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(1);
/// Deltas of one state of the set that are kept: followers that lost their streams together stand at a few places. 8 MB.
pub(crate) const DELTAS_KEPT_MAX: usize = 16;
/// News that waits for direct subscribers, shared by all of them; who falls behind starts again from a snapshot.
pub(crate) const WATCH_QUEUE: usize = 256;
/// Streams of revocation news to verifiers without an agent: a task and the place in the shared queue each.
pub(crate) const WATCH_STREAMS_MAX: usize = 1024;
/// Such streams of one address (IPv4) or /64 (IPv6): the services of one machine, while others still find a place.
pub(crate) const WATCH_STREAMS_PER_SOURCE_MAX: usize = 16;
/// Readers of the snapshot that are no agents: it is there in a second, and most get it inside their stream.
pub(crate) const SNAPSHOT_STREAMS_MAX: usize = 64;
/// Such readers of one address.
pub(crate) const SNAPSHOT_STREAMS_PER_SOURCE_MAX: usize = 16;
/// Agents that read the snapshot at once: as many as a replica is meant to serve.
pub(crate) const SNAPSHOT_STREAMS_OF_AGENTS_MAX: usize = 10_000;
/// Chunks of a snapshot that wait for one reader; all readers share their octets.
pub(crate) const SNAPSHOT_CHUNKS_QUEUE: usize = 4;
/// Revocations whose spread is still measured: an agent that acknowledges a thousand later is slow whatever it took.
pub(crate) const MEASURED_MAX: usize = 1024;
/// Keys that one command may block: an agent with 30 workloads renewed each five minutes for a day has 8,640.
pub(crate) const KEYS_BLOCKED_MAX: usize = 16_384;
/// Records that are read to revoke by one selector: a second or so, during which nothing else is done for it.
pub(crate) const SELECTOR_RECORDS_MAX: usize = 16_384;
/// Fingerprints in one question: 340 KB, and more than a scanner's findings that somebody looks at.
pub(crate) const FINGERPRINTS_MAX: usize = 10_000;
/// Live certificates that are read to find fingerprints: some seconds of one thread.
pub(crate) const FINGERPRINT_RECORDS_MAX: usize = 100_000;
/// Revoked serials in one part of an export: at 150 bytes each far below any message.
pub(crate) const EXPORT_PART_SERIALS: usize = 1_000;
/// Parts of an export that wait for their reader.
pub(crate) const EXPORT_PARTS_QUEUE: usize = 2;
/// How often certificates of deleted entries are looked for: a walk through all that live, as their count is.
pub(crate) const ORPHAN_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How often the ends of the CA's keys are looked at.
pub(crate) const KEY_END_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The ends of issuing CA and revocation key are warned of from here on: two weeks are enough for whoever has to plan a
/// rotation.
pub(crate) const KEY_END_WARNING: Duration = Duration::from_secs(14 * 86_400);
/// The end of a root is warned of from here on: half a year, for a new one has to reach every verifier.
pub(crate) const ROOT_END_WARNING: Duration = Duration::from_secs(182 * 86_400);
/// The end of the CA's own certificate is warned of from here on: it is renewed at half of its hour, so half of what then
/// is left was spent on failed tries.
pub(crate) const OWN_END_WARNING: Duration = Duration::from_secs(900);
/// How often the wall clock is asked whether the CA's own certificate is due. Timers stand still while the machine is
/// suspended and do not follow the wall clock, which decides; this long after either the renewal comes.
pub(crate) const OWN_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Wall clock steps against the monotonic clock beyond this stop issuance until an operator looks.
pub(crate) const CLOCK_STEP_MAX: Duration = Duration::from_secs(120);
/// Deny records of one caller and code: one each this long, the rest counted into the next.
pub(crate) const DENY_RECORD_INTERVAL: Duration = Duration::from_secs(10);
/// How often counts of refusals are recorded whose callers have fallen silent: with the interval before it within a minute.
pub(crate) const DENY_SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Callers remembered for rate limiting of deny records.
pub(crate) const DENY_CALLERS_MAX: usize = 4096;
/// Deny records that tell at a stop what was only counted: one group of the ledger, with the record of the stop.
pub(crate) const DENY_RECORDS_AT_STOP_MAX: usize = 500;
/// Readers of the ledger's stream at once: each holds three batches, 24 MB in all.
pub(crate) const RECORD_STREAMS_MAX: usize = 16;
/// Record bytes of one batch of that stream: half of what any message of the CA may have.
pub(crate) const RECORD_BATCH_BYTES_MAX: usize = 512 * 1024;
/// Batches that wait for one reader, so that it is served while the next is read.
pub(crate) const RECORD_BATCHES_QUEUE: usize = 2;
/// Records read at once for such a stream: at 1 KB each, one batch.
pub(crate) const RECORDS_READ_AT_ONCE: u64 = 512;
/// Records without one that is wanted after which a reader is told how far the CA has looked: 128 reads, less than a second.
pub(crate) const RECORDS_SILENT_MAX: u64 = 65_536;
/// Records of a page of a search that are held in memory at once.
pub(crate) const PAGE_RECORDS_AT_ONCE: usize = 128;
/// How long a batch waits for a reader that takes none: a pause of the network fits, a reader that sleeps gives its place
/// to the next and goes on later where it was.
pub(crate) const SLOW_READER_WAIT: Duration = Duration::from_secs(10);
/// How often is looked whether a new month has begun: a shard ends within a minute of its month.
pub(crate) const SHARD_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes of the reason for which a shard is closed: one line in a table.
pub(crate) const SHARD_NOTE_BYTES_MAX: usize = 256;
/// How often is looked for shards that are old enough to be given up; they are a month long.
pub(crate) const RETAIN_LOOK_INTERVAL: Duration = Duration::from_secs(3600);
/// Connections to a witness at once: as many logs as one witness follows keep one each.
pub(crate) const WITNESS_CONNECTIONS_MAX: usize = 256;
/// Connections of one source to a witness: a log keeps one, and some wait for their end.
pub(crate) const WITNESS_CONNECTIONS_PER_SOURCE_MAX: usize = 32;
/// The head of a request to a witness must come within this, also on a connection that rests between two.
pub(crate) const WITNESS_HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A request to a witness must be read and answered within this: one flush of a slow disk, and a body of 132 KB.
pub(crate) const WITNESS_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection to a witness ends after this, so that none that neither reads nor closes is kept.
pub(crate) const WITNESS_CONNECTION_LIFE: Duration = Duration::from_secs(600);
/// Requests that a witness checks and stores at once: threads that may wait for its disk.
pub(crate) const WITNESS_IN_WORK_MAX: usize = 32;
/// Bytes of a request's head to a witness, and of the buffer it is read into.
pub(crate) const WITNESS_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines of one request to a witness, or of its answer.
pub(crate) const WITNESS_HEADERS_MAX: usize = 64;
/// Warnings of a witness about one log: one each this long.
pub(crate) const WITNESS_WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// Witnesses of one CA: each costs a task, a connection and a line of the checkpoint.
pub(crate) const WITNESSES_MAX: usize = 16;
/// Bytes of a witness's name, which is a label of its metric.
pub(crate) const WITNESS_NAME_BYTES_MAX: usize = 128;
/// How long a witness may take to be connected to.
pub(crate) const WITNESS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a witness may take for an answer, its connection included.
pub(crate) const WITNESS_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a start waits for witnesses before it goes on without those that did not answer.
pub(crate) const WITNESS_START_WAIT: Duration = Duration::from_secs(2);
/// How long a stop waits for witnesses of the last checkpoint: with the drain it stays within what supervisors allow.
pub(crate) const WITNESS_STOP_WAIT: Duration = Duration::from_secs(2);
/// How often the stored checkpoint is looked at for witnesses: a tenth of the time between two.
pub(crate) const WITNESS_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Requests in a row for one checkpoint: the first may learn the size that the witness holds, the second is cosigned.
pub(crate) const WITNESS_ROUNDS_MAX: usize = 3;
/// Pause after a failed request, doubled up to the maximum while they fail.
pub(crate) const WITNESS_RETRY_MIN: Duration = Duration::from_millis(200);
/// Longest pause after a failed request: a witness that is back is used again within this.
pub(crate) const WITNESS_RETRY_MAX: Duration = Duration::from_secs(5);
/// A witness that does not know the log and follows no statements is told them again after this: it may have been changed.
pub(crate) const WITNESS_TELL_INTERVAL: Duration = Duration::from_secs(60);
/// How long the final checkpoint of a closed log may keep the checkpoints of the next from a witness: those are a second apart.
pub(crate) const WITNESS_CLOSED_WAIT: Duration = Duration::from_secs(5);
/// Pause after the final checkpoint of a closed log was not answered; meanwhile the log that is written has its turns.
pub(crate) const WITNESS_CLOSED_PAUSE: Duration = Duration::from_secs(10);
/// Records of one witness that says the same of this log again and again: one each this long.
pub(crate) const WITNESS_EVENT_INTERVAL: Duration = Duration::from_secs(600);
/// Pages of witness records that a start looks through for the set that was configured before.
pub(crate) const WITNESS_EVENT_PAGES_MAX: usize = 100;
/// Folders inside one another that a restore copies out of a ledger: twice as many as a ledger has.
pub(crate) const LEDGER_FOLDERS_DEEP_MAX: usize = 16;
/// Receipts that one agent may wait for at once: twice what our agent asks for.
pub(crate) const RECEIPT_WAITS_PER_AGENT_MAX: usize = 32;
/// Receipts that all agents may wait for at once; each wait costs a task of a few kilobytes.
pub(crate) const RECEIPT_WAITS_MAX: usize = 4096;
/// Receipts that are proven at once: threads that may wait for the tiles' disk.
pub(crate) const RECEIPTS_IN_WORK: usize = 4;
/// How long a receipt waits for the checkpoint that covers it; one comes each second unless configured otherwise, and who
/// waits longer asks again.
pub(crate) const RECEIPT_WAIT: Duration = Duration::from_secs(10);
/// How long it waits beyond that for the cosignatures of the configured witnesses: two checkpoints.
pub(crate) const RECEIPT_COSIGNED_WAIT: Duration = Duration::from_secs(2);
/// Certificates in one Seen message: a connection's worth of peers, at 150 bytes each far below any message.
pub(crate) const SEEN_USES_MAX: usize = 64;
/// Seen messages that are looked up at once: threads that may wait for the sealed indexes' disk.
pub(crate) const SEEN_IN_WORK: usize = 2;
/// Alarm records of one agent: one each this long, the rest counted into the next.
pub(crate) const SEEN_RECORD_INTERVAL: Duration = Duration::from_secs(10);
/// Certificates in one alarm record: with 3 KB each ten seconds an agent that makes them up fills no ledger.
pub(crate) const SEEN_RECORD_CERTIFICATES_MAX: usize = 16;
/// A certificate that is still in use is recorded again after this time.
pub(crate) const SEEN_AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// Agents remembered for rate limiting of alarm records.
pub(crate) const SEEN_AGENTS_MAX: usize = 4096;
/// Certificates remembered as recorded; 1 MB.
pub(crate) const SEEN_HASHES_MAX: usize = 16_384;
/// Identities that may read the ledger over HTTPS: people and programs that an operator names one by one.
pub(crate) const AUDITORS_MAX: usize = 64;
/// Connections of auditors at once: mirrors open some each.
pub(crate) const AUDIT_CONNECTIONS_MAX: usize = 64;
/// Connections of one source to the auditors' listener: a mirror that reads eight files at once, twice.
pub(crate) const AUDIT_CONNECTIONS_PER_SOURCE_MAX: usize = 16;
/// Files that are read for auditors at once: threads that may wait for the disk, and at most 126 MB where every record has
/// its largest size.
pub(crate) const AUDIT_IN_WORK_MAX: usize = 8;
/// Bytes of answers that wait for auditors to take them: two hundred and fifty bundles of 256 KB, or four of the largest.
pub(crate) const AUDIT_ANSWERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long one request waits for its turn and its file before it is told to ask again.
pub(crate) const AUDIT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection of an auditor ends after this, so that none that neither reads nor closes is kept.
pub(crate) const AUDIT_CONNECTION_LIFE: Duration = Duration::from_secs(600);
/// The head of a request of an auditor or a reader of public files must come within this, also on a connection that rests
/// between two.
pub(crate) const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of such a head, and of the buffer it is read into.
pub(crate) const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines of such a request.
pub(crate) const HTTP_HEADERS_MAX: usize = 64;
/// How long an answer waits for a reader who takes nothing of it; then his connection ends.
pub(crate) const HTTP_STALL_MAX: Duration = Duration::from_secs(10);
/// Connections of readers of public files, under TLS and in clear: caches open some each, everybody else comes and goes.
pub(crate) const PUBLIC_CONNECTIONS_MAX: usize = 256;
/// Such connections of one source.
pub(crate) const PUBLIC_CONNECTIONS_PER_SOURCE_MAX: usize = 16;
/// Such a connection ends after this: the largest snapshot comes through at a megabyte a second.
pub(crate) const PUBLIC_CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// Public files that are signed at once: a core is left for those who revoke.
pub(crate) const PUBLIC_IN_WORK_MAX: usize = 2;
/// How long a request for a public file waits for its turn and its signature before it is told to ask again.
pub(crate) const PUBLIC_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two states of the set that files are served of: what is revoked meanwhile comes into one.
pub(crate) const EDITION_INTERVAL: Duration = Duration::from_secs(1);
/// States of the set that files are served of: what a cache named is there for three times as long as it may name it. They
/// share what they have in common, and all but two keep nothing signed.
pub(crate) const EDITIONS_MAX: usize = 16;
/// How long a cache may keep a CRL: a new one comes at any moment, and who checks by lists sees it a minute later.
pub(crate) const CRL_CACHED_FOR: Duration = Duration::from_secs(60);
/// Bytes of the part of an object's name before the ledger's own.
pub(crate) const UPLOAD_PREFIX_BYTES_MAX: usize = 256;
/// Objects that are put or compared at once: two use the line of any store, and hold 64 MB.
#[cfg(feature = "upload")]
pub(crate) const UPLOADS_AT_ONCE: usize = 2;
/// Bytes up to which an object is put by one request, and held as a whole: a segment of records of 1 KB has 20 MB.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_WHOLE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes of one part of a larger object: of a segment of the largest records, 4 GB, there are 250 (S3 takes 10,000).
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_PART_BYTES: u64 = 16 * 1024 * 1024;
/// Objects of one shard in the store: a month of 4,000 certificates a second has 160,000 segments' files, and kept checkpoints.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_LISTED_MAX: usize = 1_000_000;
/// Longest wait for a store that is asked for something small.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that a usable store takes each second: a request may last longer by what its object needs at this rate.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 256 * 1024;
/// Tries again of one request, before the pass as a whole is tried again later.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_REQUEST_RETRIES: usize = 2;
/// How long a store may take to be connected to, TLS included.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the head of a store's answer, and of the buffer it is read into.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header lines of one answer of a store.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_HEADERS_MAX: usize = 100;
/// Bytes of an answer that is no object: a list of a thousand objects with the longest names.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a file with an access key.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_CREDENTIALS_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a file with the certificates that may speak for a store: twice what a Linux distribution trusts.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_CA_FILE_BYTES_MAX: u64 = 512 * 1024;
/// How often is looked whether something was sealed.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the newest checkpoint goes to the store when nothing is sealed.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
/// Pause after a failed pass, doubled up to the maximum while they fail.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause after a failed pass: a store that is back is used again within this.
#[cfg(feature = "upload")]
pub(crate) const UPLOAD_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a list of revoked certificates holds: less leaves no time to bring the next one to every file, and after a week
/// of silence nobody should go on trusting.
pub(crate) const CRL_VALIDITY_MIN: Duration = Duration::from_secs(600);
/// See [`CRL_VALIDITY_MIN`].
pub(crate) const CRL_VALIDITY_MAX: Duration = Duration::from_secs(7 * 86_400);
/// How long the root's list holds, which only the root's key can renew: as long as the intermediate below it.
pub(crate) const ROOT_CRL_VALIDITY: Duration = Duration::from_secs(90 * 86_400);
/// The end of the root's list is warned of from here on: its key is in a safe that somebody has to go to.
pub(crate) const CRL_END_WARNING: Duration = Duration::from_secs(14 * 86_400);
/// Time between two lists of one key: signing 100,000 entries takes 39 ms, and whoever reads files reloads for each.
pub(crate) const CRL_PACE: Duration = Duration::from_secs(1);
/// How often is looked whether a list has grown old, and tried again after one could not be signed.
pub(crate) const CRL_LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Streams of lists to agents: as many as a replica is meant to serve.
pub(crate) const CRL_STREAMS_OF_AGENTS_MAX: usize = 10_000;
/// Streams of lists to everybody else: a few gateways, and somebody's script; each is a task and at most four chunks.
pub(crate) const CRL_STREAMS_OF_OTHERS_MAX: usize = 64;
/// Chunks that wait for one reader: 1 MB.
pub(crate) const CRL_CHUNKS_QUEUE: usize = 4;
/// How long a key signs JWT-SVIDs before the next one does: what a thief of it can do ends with it.
pub(crate) const JWT_KEY_SIGNS: Duration = Duration::from_secs(30 * 86_400);
/// Trust domains without a bundle that a listing names: as many as there may be bundles.
pub(crate) const FEDERATED_MISSING_MAX: usize = 64;
/// Warnings of one apply: more than a screen of them helps nobody.
pub(crate) const APPLY_WARNINGS_MAX: usize = 100;
/// How long a key is in the bundle before it signs: twelve times the bundle's refresh hint of 300 s (SPIFFE Federation,
/// section 6: three to five are asked for).
pub(crate) const JWT_KEY_PUBLISHED_BEFORE: Duration = Duration::from_secs(3600);
/// How long a key stays in the bundle after the next one signs: a token of 24 h, the longest that the configuration allows,
/// and an hour for clocks.
pub(crate) const JWT_KEY_KEPT_AFTER: Duration = Duration::from_secs(25 * 3600);
/// Interval of the look at the keys of JWT-SVIDs: small beside an hour, and free.
pub(crate) const JWT_KEY_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Steps of one look: publish, change and forget follow each other at most once each; more would be a mistake in the plan.
pub(crate) const JWT_KEY_STEPS_MAX: usize = 4;
/// Names of agents that one answer about the spread of a revocation has: enough to look at, and a line of a terminal or two.
pub(crate) const MISSING_NAMES_MAX: usize = 16;
/// Ended serials whose memory a revocation gives back itself: 10,000 take about a millisecond.
pub(crate) const RELEASED_INLINE_MAX: usize = 10_000;
/// Names of agents, and of entries, that the answer to a revocation tells: three times 1,000 of at most 128 bytes are far from
/// what a message may hold.
pub(crate) const STRUCK_NAMES_MAX: usize = 1_000;
