/* The commands that make a TPM 2.0 what a manufacturer delivers, as bytes. Pure.
 *
 * The keys are those of the TCG EK Credential Profile (templates with their policies, persistent
 * handles, NV indices for certificates and templates) and the storage keys that go with them; all
 * numbers are in one table. Each command is whole, authorized by an empty password where it needs
 * one. [TPM2 part 3; EKCP = TCG EK Credential Profile 2.4; PTP = PC Client Platform TPM Profile]
 */
#ifndef NVKEEP_SRC_MANUFACTURE_COMMAND_H
#define NVKEEP_SRC_MANUFACTURE_COMMAND_H

#include "src/base/bytes.h"

enum made_key {
    KEY_EK_RSA2048,
    KEY_EK_RSA3072,
    KEY_EK_P384,
    KEY_SPK_RSA2048,
    KEY_SPK_RSA3072,
    KEY_SPK_P384,
    N_MADE_KEYS
};
/* What an EK is for. The standard one decrypts, and only what TPM protocols have it decrypt; the
 * others are not standard EKs. */
enum ek_use { EK_STANDARD, EK_SIGNS, EK_SIGNS_AND_DECRYPTS };

struct made_key_facts {
    const char *name;      /* "RSA 2048 EK" */
    const char *file_name; /* "rsa2048" */
    const char *curve;     /* "secp384r1", NULL: RSA */
    uint32_t persistent;
    uint32_t certificate_index, template_index; /* 0: none */
};
const struct made_key_facts *made_key_facts(enum made_key key);

enum {
    PLATFORM_CERTIFICATE_INDEX = 0x01c08000,
    /* Of one NV_Write [PTP: TPM_PT_NV_BUFFER_MAX]. */
    NV_WRITE_MAX_BYTES = 1024,
    MADE_COMMAND_BYTES = 1200, /* room for each of the commands here */
    MADE_TEMPLATE_BYTES = 420,
    EK_PUBLIC_MAX_BYTES = 512,
    PCR_BANKS_MAX = 8,
};

/* The public area (TPMT_PUBLIC) that is asked for. Returns its length. */
size_t made_key_template(enum made_key key, enum ek_use use, uint8_t ret[MADE_TEMPLATE_BYTES]);

/* They return the length of the command. */
size_t command_create_primary(enum made_key key, enum ek_use use, uint8_t ret[MADE_COMMAND_BYTES]);
size_t command_make_persistent(enum made_key key, uint32_t handle, uint8_t ret[MADE_COMMAND_BYTES]);
size_t command_flush(uint32_t handle, uint8_t ret[MADE_COMMAND_BYTES]);
/* Read by everybody, written and deleted by the platform. */
size_t command_nv_define(uint32_t index, uint16_t bytes, uint8_t ret[MADE_COMMAND_BYTES]);
/* n <= NV_WRITE_MAX_BYTES */
size_t command_nv_write(uint32_t index, uint16_t at, const void *p, size_t n,
                        uint8_t ret[MADE_COMMAND_BYTES]);
size_t command_nv_lock(uint32_t index, uint8_t ret[MADE_COMMAND_BYTES]);
size_t command_get_banks(uint8_t ret[MADE_COMMAND_BYTES]);
size_t command_read_public(uint32_t handle, uint8_t ret[MADE_COMMAND_BYTES]);
/* Persistent handles of the endorsement hierarchy, from its first on. */
size_t command_get_endorsement_handles(uint32_t most, uint8_t ret[MADE_COMMAND_BYTES]);

/* Algorithm numbers of PCR banks. */
struct pcr_banks {
    uint16_t alg[PCR_BANKS_MAX];
    size_t n;
};
/* The banks of `on` get all PCRs, the others of `all` none. */
size_t command_pcr_allocate(const struct pcr_banks *all, const struct pcr_banks *on,
                            uint8_t ret[MADE_COMMAND_BYTES]);

bool pcr_banks_have(const struct pcr_banks *b, uint16_t alg);
const char *pcr_bank_name(uint16_t alg); /* "sha256"; "?": a bank that has no name here */
uint16_t pcr_bank_of_name(const char *name, size_t n); /* 0: there is none of that name */

/* The public part of an EK. An RSA modulus, or a point's coordinates. */
struct ek_public {
    bool is_ecc;
    uint8_t n_or_x[EK_PUBLIC_MAX_BYTES];
    size_t n_or_x_bytes;
    uint8_t y[EK_PUBLIC_MAX_BYTES];
    size_t y_bytes;
};

/* What responses say; false: not what they should say. The code was 0. */
bool response_created(const uint8_t *resp, size_t n, enum made_key key, uint32_t *ret_handle,
                      struct ek_public *ret);
bool response_banks(const uint8_t *resp, size_t n, struct pcr_banks *ret);
/* How many there are, at most `most`; 0: none, or not what it should say. */
size_t response_endorsement_handles(const uint8_t *resp, size_t n, uint32_t *ret, size_t most);
bool response_allocated(const uint8_t *resp, size_t n);

#endif
