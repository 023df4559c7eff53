/* What fuzz_session.c finds worth inserting; a part of it. */

static size_t control_message(unsigned which, uint8_t *ret)
{
    static const uint8_t codes[] = {
        CTRL_INIT,
        CTRL_STOP,
        CTRL_GET_STATEBLOB,
        CTRL_GET_STATEBLOB,
        CTRL_GET_STATEBLOB,
        CTRL_LOCK_STORAGE,
        CTRL_SET_BUFFERSIZE,
        CTRL_STORE_VOLATILE,
        CTRL_HASH_START,
        CTRL_HASH_DATA,
        CTRL_HASH_END,
        CTRL_SET_LOCALITY,
        CTRL_GET_INFO,
        CTRL_GET_CAPABILITY,
        CTRL_GET_TPMESTABLISHED,
        CTRL_CANCEL_TPM_CMD,
        CTRL_GET_CONFIG,
        CTRL_SHUTDOWN,
        CTRL_RESET_TPMESTABLISHED,
        CTRL_SET_STATEBLOB,
    };
    struct bytes_out o = bytes_out(ret, ITEM_MAX_BYTES);
    which %= ARRAY_LEN(codes);
    bytes_put_be32(&o, codes[which]);
    switch (codes[which]) {
    case CTRL_GET_STATEBLOB:
        bytes_put_be32(&o, 0);
        bytes_put_be32(&o, which - 1); /* 2, 3, 4 in the list */
        bytes_put_be32(&o, 0);
        break;
    case CTRL_SET_STATEBLOB:
        bytes_put_be32(&o, 0);
        bytes_put_be32(&o, BLOB_SAVESTATE);
        bytes_put_be32(&o, 0);
        break;
    case CTRL_HASH_DATA:
        bytes_put_be32(&o, 4);
        bytes_put_be32(&o, 0x01020304);
        break;
    case CTRL_GET_INFO:
        bytes_put_be64(&o, 1);
        bytes_put_be64(&o, 0);
        break;
    case CTRL_SET_LOCALITY:
    case CTRL_RESET_TPMESTABLISHED:
    case CTRL_INIT:
    case CTRL_LOCK_STORAGE:
    case CTRL_SET_BUFFERSIZE:
        bytes_put_be32(&o, 0);
        break;
    default:
        break;
    }
    return o.n;
}

static size_t command(unsigned which, uint8_t *ret)
{
    struct tpm_cmd c;
    switch (which % 7) {
    case 0:
        cmd2_startup(&c, SU_CLEAR);
        break;
    case 1:
        cmd2_shutdown(&c, SU_STATE);
        break;
    case 2:
        cmd2_nv_define(&c, 0x01800001, 16, NV2_ORDINARY, 0);
        break;
    case 3:
        cmd2_nv_write(&c, 0x01800001, "hello", 5, 0);
        break;
    case 4:
        cmd2_create_primary(&c);
        break;
    case 5:
        cmd2_pcr_extend(&c, 3, (const uint8_t[32]){7});
        break;
    default:
        cmd2_get_random(&c, 4);
    }
    memcpy(ret, c.b, c.n);
    return c.n;
}

static size_t items_template(unsigned which, uint8_t *ret_what, uint8_t ret[ITEM_MAX_BYTES])
{
    unsigned kind = which % 16, rest = which / 16;
    if (kind < 7) {
        *ret_what = ITEM_CONTROL;
        return control_message(rest, ret);
    }
    if (kind < 9) {
        *ret_what = ITEM_COMMAND;
        return command(rest, ret);
    }
    *ret_what = (uint8_t)(kind < 11 ? (unsigned)ITEM_HAND_BACK : ITEM_ATTACH + rest % 7);
    put_be32(ret, rest & 0x00070f0f);
    return 5;
}
