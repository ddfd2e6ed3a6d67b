/* plugin_moody.h - what test_plugin tells the plugin "moody" to do, and what it did. */
typedef struct moody {
    int      hang, err, too_many; /* calls do not return until hang is 0; they answer err */
    int      calls, opened, closed, ended, changed;
    uint64_t names; /* that a listing shows */
} moody;
