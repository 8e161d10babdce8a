/* Looks serials up in a CRL with OpenSSL: openssl_crl <crl.der> <serials>, the latter 16 octets each. Prints the median time of a
 * look-up in nanoseconds, over chunks of 2,000, and how many were found. The first look-up, which sorts the list, is not counted. */
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define OCTETS 16
#define CHUNK 2000

static int by_size(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static unsigned char *whole(const char *path, long *len) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (*len = ftell(file)) < 0) {
        exit(1);
    }
    rewind(file);
    unsigned char *octets = malloc((size_t)*len + 1);
    if (octets == NULL || fread(octets, 1, (size_t)*len, file) != (size_t)*len) {
        exit(1);
    }
    fclose(file);
    return octets;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    long crl_len, serials_len;
    const unsigned char *crl_at = whole(argv[1], &crl_len);
    unsigned char *serials = whole(argv[2], &serials_len);
    X509_CRL *crl = d2i_X509_CRL(NULL, &crl_at, crl_len);
    size_t count = (size_t)serials_len / OCTETS, chunks = count / CHUNK;
    ASN1_INTEGER **asked = calloc(count, sizeof *asked);
    double *took = calloc(chunks + 1, sizeof *took);
    if (crl == NULL || asked == NULL || took == NULL || chunks == 0) {
        return 1;
    }
    for (size_t at = 0; at < count; at++) {
        BIGNUM *number = BN_bin2bn(serials + at * OCTETS, OCTETS, NULL);
        asked[at] = BN_to_ASN1_INTEGER(number, NULL);
        BN_free(number);
    }
    X509_REVOKED *found = NULL;
    size_t hits = (size_t)X509_CRL_get0_by_serial(crl, &found, asked[0]);
    for (size_t chunk = 0; chunk < chunks; chunk++) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        for (size_t at = chunk * CHUNK; at < (chunk + 1) * CHUNK; at++) {
            hits += X509_CRL_get0_by_serial(crl, &found, asked[at]) == 1;
        }
        clock_gettime(CLOCK_MONOTONIC, &to);
        took[chunk] = ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / CHUNK;
    }
    qsort(took, chunks, sizeof *took, by_size);
    printf("%.1f %zu\n", took[chunks / 2], hits);
    return 0;
}
