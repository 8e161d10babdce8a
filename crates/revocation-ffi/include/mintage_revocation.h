/* C interface to the node's revocation map.
 *
 * Ask for every certificate of a verified path below the root, after its signature was verified. Whatever is not
 * MINTAGE_REVOCATION_GOOD must be refused. A handle may be used by any number of threads at once; looking up takes no
 * lock. Link with libmintage_revocation_ffi.
 *
 * What allocates: mintage_revocation_open; a look-up by which the handle moves to a newer file of the agent, or copies the
 * map; a query's SPIFFE ID, which is parsed for each look-up; and a batch, by 32 queries. A look-up without a SPIFFE ID, in
 * a map that stays, allocates nothing. System calls: the clock, which is none where the vDSO tells it, and what moving to
 * another file takes; mintage_revocation_last_update makes one more, fstat(2).
 *
 * A handle moves to newer files of the agent by itself, to those of a CA that was made anew too. A map of the same CA with a
 * lower epoch or sequence is a rollback: the handle keeps the one that it has, whose last update no longer moves, and checks
 * say STALE in the end. Where the older map is meant, close the handle and open another.
 *
 * A file that is shortened under its mapping: whoever reads beyond the new end is ended by SIGBUS. Only the map's owner can
 * do it, and the agent never does; a person with the owner's rights can, as by copying a file over the map. A check does not
 * look, because looking is a system call. So call mintage_revocation_last_update on each open handle in steady intervals,
 * every second say, in any thread: it looks at the file's length first and lets go what was shortened. Until a whole
 * file stands under the name, checks then say STALE. Between two such calls the danger stays, so make them as close as a crash
 * is dear to you; a process that must never be ended so opens with MINTAGE_REVOCATION_ANY_OWNER_BY_COPY. */
#ifndef MINTAGE_REVOCATION_H
#define MINTAGE_REVOCATION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Results. Values are fixed for ever; unknown ones mean "refuse". */
enum {
    /* Not revoked; also the result of an open that succeeded. */
    MINTAGE_REVOCATION_GOOD = 0,
    /* Revoked, by its serial or by a rule. */
    MINTAGE_REVOCATION_REVOKED = 1,
    /* Not known to be revoked, but the filter is too old, or there is none yet: the agent is dead or cut off. */
    MINTAGE_REVOCATION_STALE = 2,
    /* The filter does not speak of this issuer, or of certificates that ended this long ago. */
    MINTAGE_REVOCATION_NOT_COVERED = 3,
    /* A null pointer, a wrong length, a text that is no SPIFFE ID. */
    MINTAGE_REVOCATION_INVALID = -1,
    /* The map cannot be read, or is not one to be trusted. */
    MINTAGE_REVOCATION_REFUSED = -2,
    /* A fault of the library. */
    MINTAGE_REVOCATION_INTERNAL = -3
};

/* Whose map is believed, besides root's and that of this process's own user. A map that is believed is mapped: its owner
 * must never shorten the file, see above. */
#define MINTAGE_REVOCATION_NO_OTHER_OWNER ((int64_t)-1)
/* Anybody's map, copied with read(2) at most every 5 s, for a path that only the agent can write to, or an owner who may
 * shorten the file: a wrong one can lie, but cannot crash this process. A revocation is then seen up to 5 s later. */
#define MINTAGE_REVOCATION_ANY_OWNER_BY_COPY ((int64_t)-2)

/* An open map. */
typedef struct mintage_revocation mintage_revocation;

/* One certificate. Pointers are read during the call only. */
typedef struct mintage_revocation_query {
    /* sizeof(mintage_revocation_query), so that fields can be added. */
    size_t size;
    /* 32 octets: SHA-256 of the SubjectPublicKeyInfo that verified the certificate's signature. */
    const uint8_t *issuer_key_id;
    /* The serial as an unsigned big-endian number of 1 to 21 octets; leading zeros do not matter. */
    const uint8_t *serial;
    size_t serial_len;
    /* Validity in milliseconds since 1970. */
    int64_t not_before_ms;
    int64_t not_after_ms;
    /* The SPIFFE ID in UTF-8, not terminated; null for a CA certificate without one. */
    const char *spiffe_id;
    size_t spiffe_id_len;
    /* 32 octets: SHA-256 of the certificate's own SubjectPublicKeyInfo. */
    const uint8_t *spki_sha256;
} mintage_revocation_query;

/* Opens the map at `path` for `trust_domain` (both terminated by a zero octet). `owner_uid` is the agent's user or
 * MINTAGE_REVOCATION_NO_OTHER_OWNER or MINTAGE_REVOCATION_ANY_OWNER_BY_COPY. A map that is not there yet is no error: checks
 * say STALE until the agent made it.
 * On GOOD `*out` is the handle, to be closed; else it is null, and `error` (when not null) holds at most `error_len`
 * octets of text, terminated. */
int mintage_revocation_open(const char *path, const char *trust_domain, int64_t owner_uid, mintage_revocation **out,
                            char *error, size_t error_len);

/* The answer for one certificate. A filter is fresh while its last heartbeat is younger than 60 s; up to `max_age_s`
 * seconds (0: not at all) an older one is still believed. 600 is the default elsewhere. */
int mintage_revocation_check(const mintage_revocation *map, const mintage_revocation_query *query, uint32_t max_age_s);

/* Most queries of one batch. */
#define MINTAGE_REVOCATION_BATCH_MAX 65536

/* The answers for `count` certificates: results[i] is what mintage_revocation_check would say of *queries[i]. Faster than as
 * many calls. GOOD when all were answered; INVALID, and nothing is written, for a null argument or a count above
 * MINTAGE_REVOCATION_BATCH_MAX. A null or malformed query is INVALID in its own result alone. */
int mintage_revocation_check_batch(const mintage_revocation *map, const mintage_revocation_query *const *queries,
                                   size_t count, uint32_t max_age_s, int *results);

/* Time of the last heartbeat in milliseconds since 1970; 0 when there is no filter; negative is an error code. Lets go a file
 * that was shortened, before anything is read from it: call it every second or so, see the top. 0 where an earlier
 * call said more means just that. */
int64_t mintage_revocation_last_update(const mintage_revocation *map);

/* Closes the handle, which must not be used any more; null is ignored. */
void mintage_revocation_close(mintage_revocation *map);

#ifdef __cplusplus
}
#endif

#endif
