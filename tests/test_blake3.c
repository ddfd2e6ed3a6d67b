/* test_blake3.c - the [blake3] part of fsb_chunk.h against the official vectors, against a literal
   transcription of the paper, and every width of the vector code against each other. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#define FSB_CHUNK_IMPLEMENTATION
#include "fsb_chunk.h"
#include "test.h"

#define KEY     "whats the Elvish word for friend"
#define CONTEXT "BLAKE3 2019-12-27 16:29:52 test vectors context"
#define BUFFER  (300 * 1024)

static unsigned char input[BUFFER + 64]; /* bytes 0, 1, ... 250, 0, 1, ... as in the vectors */

/* The official test vectors (BLAKE3-team/BLAKE3, test_vectors.json, CC0): of each 131-byte output
   the first and the last 16 bytes; hash, keyed hash, key derivation. */
static const struct { size_t size; const char *hex[3]; } vectors[] = {
    {0, {"af1349b9f5f9a1a6a0404dea36dcc94982314e763699a31c5363165421cce14d",
     "92b2b75604ed3c761f9d6f62392c8a922ac4aa692a9210694254c371e851bc8f",
     "2cc39783c223154fea8dfb7c1b1660f2b273e56547dfd3aa1a035ba6689d89a0"}},
    {1, {"2d3adedff11b61f14c886e35afa036739a613eba131e5f1351f3f1da786545e5",
     "6d7878dfff2f485635d39013278ae14f2218078b2f3ba9a88e1d08d0dd4cea11",
     "b3e2e340a117a499c6cf2398a19ee0d239c2ef8c4aafebc9ae973a64f0c76551"}},
    {2, {"7b7015bb92cf0b318037702a6cdd81de223a7f1919cec0acd12097ff3ab00ab1",
     "5392ddae0e0a69d5f40160462cbd9bd867dcda8f7b31697b7c54fab6a939bf8f",
     "1f166565a7df0098ee65922d7fea425fad68037557518b79c0086de6d6f6cdd2"}},
    {3, {"e1be4d7a8ab5560aa4199eea339849ba09010d9186890b096a08471e4230a134",
     "39e67b76b5a007d4921969779fe666da3c370ffe465f07fb57def95df772c39f",
     "440aba35cb006b61fc17c0529255de43b0dcf762e8c053cabae41bbe22a5bff7"}},
    {4, {"f30f5ab28fe047904037f77b6da4fea13a1a881e8f14e87a4acf4646272cfd12",
     "7671dde590c95d5ac9616651ff5aa0a2ae0788008e3e27c67482349e249cb86a",
     "f46085c8190d69022369ce1a18880e9bb799a20dffe239594d6e99ed17950910"}},
    {5, {"b40b44dfd97e7a84a996a91af8b851884e64f1e73aa927b30988e2aed2f03620",
     "73ac69eecf286894d8102018a6fc729fae03e87431dac003e7d73574bfdd8218",
     "1f24eda69dbcb752847ec3ebb5dd42836ea9144ed09253d51f8f54dd6bff719d"}},
    {6, {"06c4e8ffb6872fad96f9aaca5eee1553db6e39debd5061ff3609916f3e07529a",
     "82d3199d0013035682cc7f2a399d4c21c622a46d7b1bcaee02c5025460941256",
     "be96b30b37919fe4379dfbe752ae77b45297df9e40ec8a3d662f3e1479c65de0"}},
    {7, {"3f8770f387faad08faa9d8414e9f449a65a4296739248b28d1a20b0e2cc8975c",
     "af0a7ec382aedc0cfd626e49e7628bc76c5dc4c3668a2519266a562c6c8034a6",
     "dc3b6485f9d94935329442916b0d059669dc1ac2007d5623cbea8cbfb6b181f5"}},
    {8, {"2351207d04fc16ade43ccab08600939c0374126676ea78874d79f2dd7883cf5c",
     "be2f5495c61cba1bb348a34948c00404127a502fe0704baa6bfdf04e76c13276",
     "2b166978cef14d9d438046c720519d8b91c240acdb4d47728d23e7148720ef04"}},
    {63, {"e9bc37a594daad83be9470df7f7b3798b6ac4dfa51794b02ace9f98779040755",
     "bb1eb5d4afa793c1ebdd9fb08def6c367046855eaa888663de55d6471371d55d",
     "b6451e30b953c206e34644c6803724e964ab9913befc65fddc474f6dc1c67669"}},
    {64, {"4eed7141ea4a5cd4b788606bd23f46e2294acd660666c4538833582b43f82d74",
     "ba8ced36f327700d213f120b1a207a3b73d1312319afcf3ed39d72d0bfc69acb",
     "a5c4a7053fa86b64746d4bb688d06ad1c37ef686fbbcab97e8ff66718be048bb"}},
    {65, {"de1e5fa0be70df6d2be8fffd0e99ceaa456a3f10079072baaf7a981653221f2c",
     "c0a4edefa2d2accb9277c371ac12fcdb23374449ca788fb0f9bea92731bc26ad",
     "51fd05c3c1cfbc8ed67d139ad76f5cf82763f1f94977435d10dccae3e3dce88d"}},
    {127, {"d81293fda863f008c09e92fc382a81f5caaafd4beebaed24ae2f8bb672bcef78",
     "c64200ae7dfaf35577ac5a9521c47863aba0c35bfe42574011931c9a255ce6dc",
     "c91c090ceee3a3ac81902da3183801263c937be16e39cfa7084a36207c99bea3"}},
    {128, {"f17e570564b26578c33bb7f44643f5396a9f93ec6e84edb7add1cb4a95019b0c",
     "b04fe15577457267ff3b6f3c947d93be70956be16588ef1cfef2f1d15f650bd5",
     "81720f34452f58a0120a58b6b46083844dadb59b2861cd2518b4e7591e4b83c9"}},
    {129, {"683aaae9f3c5ba37eaaf072aed0f9e30ba2b7841e6cfc99ad77594a8f2d181a7",
     "d4a64dae6cdccbac1e5287f54f17c5f93a203976d5ff1cd41885573487bcd683",
     "938d2d4435be30eafdbb2b7031f7857cd186d984b21542c1c780684ed6832d8d"}},
    {1023, {"10108970eeda3eb932baac1428c7a216c370a0cc09b6522d9c8d822f2f28f485",
     "c951ecdf03288d0fcc96ee3413563d8a83d9e8efac5b37470da28575fd755a10",
     "74a16c1c3d44368a86e1ca6df64be6a26694b924b858f329c44ee64b884ef00d"}},
    {1024, {"42214739f095a406f3fc83deb889744aed57db5c5ca170ba441427ed9afa684e",
     "75c46f6f3d9eb4f55ecaaee480db732eac4d8824d09d1a4a8f57b8227778e2de",
     "7356cd7720d5b66b6d0697eb3177d9f8c199efdec67e80a227251808d8ce5bad"}},
    {1025, {"d00278ae47eb27b34faecf67b4fe263f00062d9595adb992ae68ff12800ab67a",
     "357dc55de0c7e382c900fd6e320acc04a772cf82636cff4542540a7738d5b930",
     "effaa245f065fbf82ac186839a24970747a6f911c8217cca46defa2751e7f3ad"}},
    {2048, {"e776b6028c7cd22a4d0ba182a8bf6220d5e90c14f53a8863ac75655461cea8f9",
     "879cf1fa2ea0e79126cb1063617a05b61018af31c3b43aa55201ed4edaac74fe",
     "7b2945cb4fef70885cc5d78a87bf6f62f2d4bd9d17524c720107f985f4ddc583"}},
    {2049, {"5f4d72f40d7a5f82b15ca2b2e44b1de3734dff63340285adec2aed3b51073ad3",
     "9f29700902f7c86e514ddc4df1e3049fd616a4c345822f1151284712f76b2b0e",
     "2ea477c5515cc3dd606512ee72bb3e0ef4ffc39d195589bdbc670f63ae70f4b6"}},
    {3072, {"b98cb0ff3623be03326b373de6b9095280448306e0daa84a3fdb566661a37e11",
     "044a0e7b172a312dc02a4c9a818c036f2999fc87ff7d8f176fbecb3d6f34278b",
     "050df97f8c2ead654d9bb3ab8c9178edf0a18fb28369d0a9329ab5c24134ccb0"}},
    {3073, {"7124b49501012f81cc7f11ca069ec9222af5a76c3e9eed554ed72ea952b603bf",
     "68dede9bef00ba89e43f31a6825f4cf4f62b82903c696a93a50b702c80f3c3c5",
     "72613c9ec9ff7e40f8f5c173784c532abc19e11fe57b6ee98aa44b2a8e6b14a5"}},
    {4096, {"015094013f57a5277b59d8475c05010472dbe5c311918ea0074ce0036454f620",
     "befc660aea2f1718884cd8deb9902811398d5a6ec6d5c54f586a00403a1af1de",
     "1e0d7f3db8c414c97c6307cbda6cd27af95a504e631cd2c5f55246024761b245"}},
    {4097, {"9b4052b38f1c5fc8b1f9ff7ac7b27cd2adac4b5b2c92e722cffdc46501531956",
     "00df940cd36bb9fa7cbbc3556744e0db1eea812656d46742e4ea42769f89b83f",
     "aca51029626b55fda7117b42a7c211f85739c333798a80c64ae895e51e22f3ad"}},
    {5120, {"9cadc15fed8b5d854562b26a9536d97061f6b9550a069e66b11b40487a5f5059",
     "2c493e48e9b9bf31e0553a22b23503c050fa28fb5874af91bf06020d1bf0120e",
     "7a7acac8a02adcf3038d74cdd1d34527422c24ea0f62961f0dca45cad47bfa0d"}},
    {5121, {"628bd2cb2004694adaab7bbd778a25df77aa7aa008bac878f72257484f2b6c95",
     "6ccf1c34753e7a044db80798ecd0782a125588aad6e07d7f11a85b88d375b72d",
     "b07f01e518e702f7ccb44a267e9e112d82240d689bbbaefc359fb6ae30263165"}},
    {6144, {"3e2e5b74e048f3add6d21faab3f83aa43bea714f4c5d6b903522045b20395c83",
     "3d6b6d21281d0ade5b2b016ae4034c5d3dfe172df73deb8c9532066d88f9da7e",
     "2a95beae63ddce523762355cf4b9c1d83994882ea4168827823eef1f64169fef"}},
    {6145, {"f1323a8631446cc50536a9f705ee5cb6ebff9a23d5e3ff0cdae2cfd54e070022",
     "9ac301e9e39e45e3250a7e3b3df701aa25beeb4b13c4e43dc84abcc79cd4646c",
     "379bcc61d0051dd489f686c13de00d5bd888893e53d977424bb707201569a8d2"}},
    {7168, {"61da957ec2499a95d6b8023e2b0e604e751f9eb58d332791b8d73fb74e4fce95",
     "b42835e40e9d4a7f42ad8cc04f85a9633711b64a070b94f2c9d1d8a90d035d52",
     "11c37a112765370c94a51415d0d65119ea1976391fcc72af1945100e2a6dcb88"}},
    {7169, {"a003fc7a51754a9b3c7fae0367ab3d787f36ebf676ffa7d72d5f68f050b119c8",
     "ed9b1a922c046fdb3d423ae34e143b05169f242e533777604c118a6358250f54",
     "554b0a5efea9ef183f2f9b931b749799cb5039369d0060eaea59d6c65130f1dd"}},
    {8192, {"aae792484c8efe4f19e2ca7d371d8c46f711ed583cb7b7a7da2839ba71309bbf",
     "dc9637c8845a770b4cbf76b8daec0eeb4dea8fb6f08c04f8f10c78292aa46102",
     "ad01d7ae4ad059b0d33baa3c01319dcf5024a0788cf5874616407757e9e6bef7"}},
    {8193, {"bab6c09cb8ce8cf459261398d2e7aef3edb30d133653bb5709d1dbd55f4e1ff6",
     "954a2a75420c8d6547e3ba5b98d963e63275384006c80f4db68023f24eebba57",
     "af1e0346e389b17c23200270a64aa4e15897459f5425adb48aba07c5fb3c83c0"}},
    {16384, {"f875d6646de28985646f34ee13be9a575f64636a8f1d599c2e49722f42e93893",
     "9e9fc4eb7cf081ea7c47d1807790ed213e8f71e9d0496bfa744656861b169d65",
     "160e18b5878cd0df1c3af85eb25a0db5fba11c406bc316768b58f6802c9e9b57"}},
    {31744, {"62b6960e1a44bcc1eb1a611a8d6235b6d09748728a5cc327a8ec470f4013226f",
     "efa53b389ab67c593dba624d898d0f73016a4e728d4c06cee4505cb0c08a42ec",
     "39772aef80e0ebe60596361e45b061e8a9fde9d5c274185f7bae8ba85d300a2b"}},
    {102400, {"bc3e3d41a1146b069abffad3c0d44860764d65de58eb7d01dd42248204f45f8e",
     "1c35d1a5811083fd7119f5d5d1ba027b37be9693fc638a3bfdbe314574ee6fc4",
     "4652cff7a3f385a6103b5c260fc1593e51ed1a7e90a7926924d2763778be8560"}},
};

typedef enum mode { HASH, KEYED, DERIVE, MODES } mode;

static void start(fsb_blake3 *h, mode m)
{
    if (m == HASH) fsb_blake3_init(h);
    else if (m == KEYED) fsb_blake3_init_keyed(h, (const unsigned char *)KEY);
    else fsb_blake3_init_derive_key(h, CONTEXT);
}

static unsigned widest(void)
{
    fsb_blake3 h;
    fsb_blake3_init(&h);
    return h.lanes;
}

static unsigned next_width(unsigned lanes) { return lanes == 1 ? 4 : 2 * lanes; }

static void hex(const unsigned char *bytes, size_t size, char *out)
{
    for (size_t i = 0; i < size; ++i) sprintf(out + 2 * i, "%02x", bytes[i]);
}

static uint32_t next_random(uint32_t *seed) /* the same numbers in every run */
{
    *seed ^= *seed << 13, *seed ^= *seed >> 17, *seed ^= *seed << 5;
    return *seed;
}

/* ---- the paper, word by word: slow, recursive, without any of the header's code ---- */

typedef struct node { uint32_t cv[8], m[16], size, flags; uint64_t t; } node; /* one compression */

static const uint32_t IV[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                               0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

static uint32_t ror(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void g(uint32_t *v, int a, int b, int c, int d, uint32_t x, uint32_t y)
{
    v[a] = v[a] + v[b] + x, v[d] = ror(v[d] ^ v[a], 16);
    v[c] = v[c] + v[d], v[b] = ror(v[b] ^ v[c], 12);
    v[a] = v[a] + v[b] + y, v[d] = ror(v[d] ^ v[a], 8);
    v[c] = v[c] + v[d], v[b] = ror(v[b] ^ v[c], 7);
}

static void paper_compress(const node *n, uint32_t out[16])
{
    static const int permutation[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
    uint32_t         v[16], m[16], old[16];
    memcpy(v, n->cv, 32), memcpy(v + 8, IV, 16), memcpy(m, n->m, 64);
    v[12] = (uint32_t)n->t, v[13] = (uint32_t)(n->t >> 32), v[14] = n->size, v[15] = n->flags;
    for (int round = 0; round < 7; ++round) {
        for (int i = 0; i < 4; ++i) g(v, i, 4 + i, 8 + i, 12 + i, m[2 * i], m[2 * i + 1]);
        for (int i = 0; i < 4; ++i)
            g(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[8 + 2 * i], m[9 + 2 * i]);
        memcpy(old, m, 64);
        for (int i = 0; i < 16; ++i) m[i] = old[permutation[i]];
    }
    for (int i = 0; i < 8; ++i) out[i] = v[i] ^ v[i + 8], out[i + 8] = v[i + 8] ^ n->cv[i];
}

static node paper_chunk(const unsigned char *p, size_t size, const uint32_t key[8], uint64_t t,
                        uint32_t flags)
{
    node n = {{0}, {0}, 0, flags | 1, t};
    memcpy(n.cv, key, 32);
    for (;;) {
        n.size = size < 64 ? (uint32_t)size : 64;
        memset(n.m, 0, 64);
        for (uint32_t i = 0; i < n.size; ++i) n.m[i / 4] |= (uint32_t)p[i] << 8 * (i % 4);
        if (size <= 64) break;
        uint32_t out[16];
        paper_compress(&n, out);
        memcpy(n.cv, out, 32);
        n.flags = flags, p += 64, size -= 64;
    }
    n.flags |= 2;
    return n;
}

static node paper_tree(const unsigned char *p, size_t size, const uint32_t key[8], uint64_t t,
                       uint32_t flags)
{
    if (size <= 1024) return paper_chunk(p, size, key, t, flags);
    size_t left = 1024;
    while (2 * left < size) left *= 2;
    const node a = paper_tree(p, left, key, t, flags);
    const node b = paper_tree(p + left, size - left, key, t + left / 1024, flags);
    node       n = {{0}, {0}, 64, flags | 4, 0};
    uint32_t   out[16];
    memcpy(n.cv, key, 32);
    paper_compress(&a, out), memcpy(n.m, out, 32);
    paper_compress(&b, out), memcpy(n.m + 8, out, 32);
    return n;
}

static void paper_hash(mode m, const unsigned char *p, size_t size, unsigned char *out,
                       size_t length)
{
    static const uint32_t mode_flags[MODES] = {0, 16, 64};
    uint32_t              key[8], words[16];
    memcpy(key, IV, 32);
    for (int i = 0; m == KEYED && i < 32; ++i)
        key[i / 4] = key[i / 4] >> 8 | (uint32_t)KEY[i] << 24;
    if (m == DERIVE) {
        node c = paper_tree((const unsigned char *)CONTEXT, strlen(CONTEXT), IV, 0, 32);
        c.flags |= 8;
        paper_compress(&c, words), memcpy(key, words, 32);
    }
    node root = paper_tree(p, size, key, 0, mode_flags[m]);
    root.flags |= 8;
    for (size_t i = 0; i < length; ++i) {
        root.t = i / 64;
        if (i % 64 == 0) paper_compress(&root, words);
        out[i] = (unsigned char)(words[i % 64 / 4] >> 8 * (i % 4));
    }
}

/* ---- the tests ---- */

static void test_vectors(void)
{
    for (unsigned lanes = 1; lanes <= widest(); lanes = next_width(lanes))
        for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; ++i)
            for (mode m = HASH; m < MODES; ++m) {
                unsigned char out[131], once[32];
                char          text[65];
                fsb_blake3    h;
                start(&h, m);
                h.lanes = lanes;
                fsb_blake3_update(&h, input, vectors[i].size);
                fsb_blake3_final(&h, out, sizeof out);
                hex(out, 16, text), hex(out + 115, 16, text + 32);
                CHECK_STR(text, vectors[i].hex[m]);
                fsb_blake3_hash(input, vectors[i].size, once);
                CHECK(m != HASH || memcmp(once, out, 32) == 0);
            }
}

/* Every number of chunks up to several batches, and sizes around each. */
static void test_paper_sizes(void)
{
    unsigned char want[32], got[32];
    for (size_t chunks = 0; chunks < 290; ++chunks)
        for (size_t size = chunks * 1024; size < chunks * 1024 + 3; ++size) {
            paper_hash(HASH, input, size, want, 32);
            for (unsigned lanes = 1; lanes <= widest(); lanes = next_width(lanes)) {
                fsb_blake3 h;
                fsb_blake3_init(&h);
                h.lanes = lanes;
                fsb_blake3_update(&h, input, size);
                fsb_blake3_final(&h, got, 32);
                CHECK_EQ(memcmp(want, got, 32) ? (long long)size : -1, -1);
            }
        }
}

/* Random data in random pieces at random alignments, long outputs in all modes and widths; asking
   for the output on the way changes nothing. */
static void test_random_pieces(void)
{
    static unsigned char data[BUFFER], want[1000], got[1008];
    uint32_t             seed = 12345;
    for (size_t i = 0; i < sizeof data; ++i) data[i] = (unsigned char)next_random(&seed);
    for (int round = 0; round < 300; ++round) {
        const size_t at = next_random(&seed) % 64, length = next_random(&seed) % sizeof want;
        const size_t size = next_random(&seed) % (round % 2 ? 5000 : BUFFER - 64);
        const size_t most = 1 + next_random(&seed) % (round % 3 ? 100000 : 3000);
        const mode   m = (mode)(round % MODES);
        paper_hash(m, data + at, size, want, length);
        for (unsigned lanes = 1; lanes <= widest(); lanes = next_width(lanes)) {
            fsb_blake3 h;
            start(&h, m);
            h.lanes = lanes;
            for (size_t done = 0, n; done < size; done += n) {
                n = next_random(&seed) % (most + 1);
                if (n > size - done) n = size - done;
                fsb_blake3_update(&h, data + at + done, n);
                if (n % 5 == 0) fsb_blake3_final(&h, got, n % 70);
            }
            fsb_blake3_final(&h, got + at % 8, length);
            CHECK(memcmp(got + at % 8, want, length) == 0);
        }
    }
}

/* A hasher is a value: a copy goes on by itself. */
static void test_copy(void)
{
    unsigned char want[32], got[32];
    fsb_blake3    h, copy;
    fsb_blake3_init(&h);
    fsb_blake3_update(&h, input, 5000);
    copy = h;
    fsb_blake3_update(&h, input + 5000, 70000);
    fsb_blake3_update(&copy, input + 5000, 10);
    fsb_blake3_update(&copy, NULL, 0);
    fsb_blake3_final(&h, got, 32), fsb_blake3_hash(input, 75000, want);
    CHECK(memcmp(want, got, 32) == 0);
    fsb_blake3_final(&copy, got, 32), fsb_blake3_hash(input, 5010, want);
    CHECK(memcmp(want, got, 32) == 0);
}

#ifdef FSB_BLAKE3_VECTORS_
/* The 16-lane kernel again, for CPUs without AVX-512: the compiler splits its vectors. */
FSB_BLAKE3_KERNEL_(16, split16, FSB_BLAKE3_TARGET4_, FSB_BLAKE3_ROT16_, FSB_BLAKE3_ROT8_)
#endif

/* A kernel with every number of lanes in use, on both sides of the counter's carry. */
static void check_kernel(fsb_blake3_kernel_ *kernel, unsigned lanes)
{
    static const uint64_t counters[] = {0, 0xfffffff8, 0x7ffffffc, UINT64_C(0xabcdefffffffff)};
    unsigned char         want[16 * 32], got[17 * 32];
    for (size_t count = 1; count <= lanes; ++count)
        for (int i = 0; i < 8; ++i) {
            const int      parent = i / 4;
            const uint32_t flags = parent ? FSB_BLAKE3_PARENT_ | FSB_BLAKE3_KEYED_ : 0;
            const uint64_t counter = parent ? 0 : counters[i % 4];
            for (size_t k = 0; k < count; ++k)
                fsb_blake3_one_(1, input + i + k * (parent ? 64 : 1024), fsb_blake3_iv_,
                                counter + (parent ? 0 : k), flags, want + 32 * k);
            memset(got, 0xee, sizeof got);
            kernel(input + i, count, fsb_blake3_iv_, counter, flags, got);
            CHECK(memcmp(got, want, 32 * count) == 0);
            CHECK_EQ(got[32 * count], 0xee); /* unused lanes are not written */
        }
}

static void test_kernels(void)
{
    for (unsigned lanes = 4; lanes <= widest(); lanes = next_width(lanes))
        check_kernel(fsb_blake3_kernel_for_(lanes), lanes);
#ifdef FSB_BLAKE3_VECTORS_
    check_kernel(split16, 16);
#else
    SKIP("built without vectors");
#endif
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof input; ++i) input[i] = (unsigned char)(i % 251);
    test_begin(argc, argv);
    TEST(test_vectors);
    TEST(test_paper_sizes);
    TEST(test_random_pieces);
    TEST(test_copy);
    TEST(test_kernels);
    if (widest() < 16) fprintf(stderr, "note: %u lanes on this CPU, not 16\n", widest());
    return test_end("test_blake3");
}
