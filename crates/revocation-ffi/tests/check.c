/* Opens a map and prints one result per serial given in hexadecimal digits:
 * check <map> <trust domain> <issuer key id> <serial>...
 *
 * With WHOLE_COPY, which names a copy of the map, it goes on with maps that are cut while they are open: first with the copy put in
 * the place of a cut one, then with nothing in its place. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mintage_revocation.h"

static size_t unhex(const char *text, uint8_t *to, size_t room) {
    size_t count = strlen(text) / 2;
    if (count > room) {
        exit(2);
    }
    for (size_t at = 0; at < count; at++) {
        unsigned value;
        if (sscanf(text + 2 * at, "%2x", &value) != 1) {
            exit(2);
        }
        to[at] = (uint8_t)value;
    }
    return count;
}

/* One line per serial: the answer alone, then that of the batch and the answers in it. */
static void ask(const mintage_revocation *map, int argc, char **argv) {
    uint8_t issuer[32], serial[20], spki[32] = {0};
    unhex(argv[3], issuer, sizeof issuer);
    int64_t now_ms = (int64_t)time(NULL) * 1000;
    for (int at = 4; at < argc; at++) {
        mintage_revocation_query query = {
            .size = sizeof query,
            .issuer_key_id = issuer,
            .serial = serial,
            .serial_len = unhex(argv[at], serial, sizeof serial),
            .not_before_ms = now_ms - 30000,
            /* The test issues for exactly this end. */
            .not_after_ms = strtoll(getenv("NOT_AFTER_MS"), NULL, 10),
            .spiffe_id = "spiffe://dev.test/web",
            .spiffe_id_len = strlen("spiffe://dev.test/web"),
            .spki_sha256 = spki,
        };
        printf("%d", mintage_revocation_check(map, &query, 600));
        const mintage_revocation_query *batch[3] = {&query, NULL, &query};
        int results[3] = {9, 9, 9};
        int answered = mintage_revocation_check_batch(map, batch, 3, 600, results);
        printf(" %d %d %d %d\n", answered, results[0], results[1], results[2]);
    }
}

/* Where last_update stands: 1 for a time, 0 for no filter. */
static void tell_last_update(const mintage_revocation *map) {
    int64_t at = mintage_revocation_last_update(map);
    printf("%d\n", at > 0 ? 1 : (int)at);
}

int main(int argc, char **argv) {
    if (argc < 5) {
        return 2;
    }
    char error[256] = "";
    mintage_revocation *map = NULL;
    if (mintage_revocation_open(argv[1], argv[2], MINTAGE_REVOCATION_NO_OTHER_OWNER, &map, error, sizeof error) != 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    ask(map, argc, argv);
    tell_last_update(map);
    const char *whole = getenv("WHOLE_COPY");
    if (whole != NULL) {
        if (truncate(argv[1], 0) != 0 || rename(whole, argv[1]) != 0) {
            return 3;
        }
        tell_last_update(map);
        ask(map, argc, argv);
        if (truncate(argv[1], 0) != 0) {
            return 3;
        }
        tell_last_update(map);
        ask(map, argc, argv);
    }
    mintage_revocation_close(map);
    return 0;
}
