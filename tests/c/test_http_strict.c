/* What RFC 9112 wants refused, and what it wants accepted: bytes in, status out. */
#include "http_fixture.h"

#define WS GET "Connection: Upgrade\r\nUpgrade: websocket\r\n"

static const struct {
    const char *what, *bytes;
    int status;
    bool closed;
} cases[] = {
    {"plain", GET "\r\n", 200, false},
    {"connection close", GET "Connection: close\r\n\r\n", 200, true},
    {"an empty line first", "\r\n" GET "\r\n", 200, false},
    {"two empty lines first", "\r\n\r\n" GET "\r\n", 400, true},
    {"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", 200, true},
    {"HTTP/1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, false},
    {"HTTP/0.9", "GET /\r\n\r\n", 400, true},
    {"no version", "GET / \r\nHost: a\r\n\r\n", 400, true},
    {"lower-case version", "GET / http/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, true},
    {"HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, true},
    {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, true},
    {"long version", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400, true},
    {"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"space after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, true},
    {"tab as separator", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"space before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"unknown method", "BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501, true},
    {"lower-case method", "get / HTTP/1.1\r\nHost: a\r\n\r\n", 501, true},
    {"CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501, true},
    {"bare LF", "GET / HTTP/1.1\nHost: a\n\n", 400, true},
    {"bare LF in a field", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, true},
    {"bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, true},
    {"bare CR in a value", GET "X: a\rb\r\n\r\n", 400, true},
    {"CR CR LF", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400, true},
    {"obs-fold", GET "X: a\r\n b\r\n\r\n", 400, true},
    {"obs-fold by tab", GET "X: a\r\n\tb\r\n\r\n", 400, true},
    {"fold of the request line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, true},
    {"space before colon", GET "X : a\r\n\r\n", 400, true},
    {"tab before colon", GET "X\t: a\r\n\r\n", 400, true},
    {"no colon", GET "X\r\n\r\n", 400, true},
    {"no name", GET ": a\r\n\r\n", 400, true},
    {"invalid name", GET "X(y): a\r\n\r\n", 400, true},
    {"control character", GET "X: a\x01\r\n\r\n", 400, true},
    {"DEL", GET "X: a\x7f\r\n\r\n", 400, true},
    {"high byte in a name", GET "X\x80: a\r\n\r\n", 400, true},
    {"high byte in a value", GET "X: caf\xc3\xa9\r\n\r\n", 200, false},
    {"empty value", GET "X:\r\n\r\n", 200, false},
    {"blanks round a value", GET "X: \t a \t \r\n\r\n", 200, false},
    {"no Host", "GET / HTTP/1.1\r\n\r\n", 400, true},
    {"Host twice", GET "Host: a\r\n\r\n", 400, true},
    {"Host twice, other case", GET "hOST: b\r\n\r\n", 400, true},
    {"Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, true},
    {"Host with a slash", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, true},
    {"Host with port", "GET / HTTP/1.1\r\nHost: a:80\r\n\r\n", 200, false},
    {"Host IPv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200, false},
    {"absolute form", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 200, false},
    {"absolute form with user", "GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"other scheme", "GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200, false},
    {"asterisk by GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"relative target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"fragment", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"high byte in the target", "GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"%00", "GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"%00 in the query", "GET /?a=%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"half an escape", "GET /a%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"no escape", "GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"no escape in the query", "GET /?a=%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"above the root", "GET /../a HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"above the root, escaped", "GET /a/%2e%2e/%2E./b HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"above the root, escaped slash", "GET /a%2f..%2f..%2f HTTP/1.1\r\nHost: a\r\n\r\n", 400, true},
    {"body", POST "Content-Length: 2\r\n\r\nab", 200, false},
    {"body of GET", GET "Content-Length: 2\r\n\r\nab", 200, false},
    {"empty body", POST "Content-Length: 0\r\n\r\n", 200, false},
    {"CL twice, equal", POST "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", 400, true},
    {"CL twice, different", POST "Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc", 400, true},
    {"CL list", POST "Content-Length: 2, 2\r\n\r\nab", 400, true},
    {"CL signed", POST "Content-Length: +2\r\n\r\nab", 400, true},
    {"CL negative", POST "Content-Length: -2\r\n\r\nab", 400, true},
    {"CL hexadecimal", POST "Content-Length: 0x2\r\n\r\nab", 400, true},
    {"CL empty", POST "Content-Length: \r\n\r\n", 400, true},
    {"CL with blanks", POST "Content-Length:  2 \r\n\r\nab", 200, false},
    {"CL with blanks inside", POST "Content-Length: 2 2\r\n\r\nab", 400, true},
    {"CL overflow", POST "Content-Length: 18446744073709551617\r\n\r\na", 400, true},
    {"CL too large", POST "Content-Length: 4194305\r\n\r\n", 413, true},
    {"CL and TE", POST "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
     true},
    {"TE and CL", POST "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400,
     true},
    {"TE twice", POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400, true},
    {"TE chunked, chunked", POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, true},
    {"TE empty", POST "Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400, true},
    {"TE gzip", POST "Transfer-Encoding: gzip\r\n\r\n", 501, true},
    {"TE gzip, chunked", POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, true},
    {"TE identity", POST "Transfer-Encoding: identity\r\n\r\n", 501, true},
    {"TE xchunked", POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, true},
    {"TE quoted", POST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 501, true},
    {"TE vertical tab",
     POST "Transfer-Encoding: \x0b"
          "chunked\r\n\r\n0\r\n\r\n",
     400, true},
    {"TE other case", POST "tRANSFER-eNCODING: ChUnKeD\r\n\r\n0\r\n\r\n", 200, false},
    {"TE in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400, true},
    {"chunks", CHUNKED "2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\n", 200, false},
    {"chunk size in upper case", CHUNKED "0A\r\n0123456789\r\n0\r\n\r\n", 200, false},
    {"trailer", CHUNKED "2\r\nab\r\n0\r\nX: y\r\n\r\n", 200, false},
    {"folded trailer", CHUNKED "2\r\nab\r\n0\r\nX: y\r\n z\r\n\r\n", 400, true},
    {"trailer, space before colon", CHUNKED "2\r\nab\r\n0\r\nX : y\r\n\r\n", 400, true},
    {"chunk size missing", CHUNKED "\r\nab\r\n0\r\n\r\n", 400, true},
    {"chunk size 0x2", CHUNKED "0x2\r\nab\r\n0\r\n\r\n", 400, true},
    {"chunk size negative", CHUNKED "-2\r\nab\r\n0\r\n\r\n", 400, true},
    {"chunk size with a blank", CHUNKED "2 \r\nab\r\n0\r\n\r\n", 400, true},
    {"chunk size overflow", CHUNKED "10000000000000002\r\nab\r\n0\r\n\r\n", 400, true},
    {"chunk too long", CHUNKED "2\r\nabc\r\n0\r\n\r\n", 400, true},
    {"chunk line by LF", CHUNKED "2\nab\r\n0\r\n\r\n", 400, true},
    {"chunk data by LF", CHUNKED "2\r\nab\n0\r\n\r\n", 400, true},
    {"expect", POST "Content-Length: 2\r\nExpect: 100-continue\r\n\r\nab", 200, false},
    {"expect the unknown", POST "Content-Length: 2\r\nExpect: money\r\n\r\nab", 417, true},
    {"websocket, no version", WS "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 426, true},
    {"websocket, old version",
     WS "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 426,
     true},
    {"websocket, no key", WS "Sec-WebSocket-Version: 13\r\n\r\n", 400, true},
    {"websocket, short key", WS "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ==\r\n\r\n", 400,
     true},
    {"upgrade to h2c", GET "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200, false},
    {"TLS hello", "\x16\x03\x01\x02\n", 400, true},
};

/* One case: bytes in pieces of `step`, then status and whether the connection stays. */
static void try_case(struct app *app, size_t i, size_t step)
{
    const char *bytes = cases[i].bytes;
    size_t length = strlen(bytes);
    struct client c;

    client_open(&app->f, &c);
    for (size_t at = 0; at < length && !c.eof; at += step)
        client_send(&app->f, &c, bytes + at, length - at < step ? length - at : step);
    PUMP_UNTIL(&app->f, &c, c.eof || answered(&c));
    if (status_of(&c) == 100) {
        nd_buf_drop(&c.in, strlen("HTTP/1.1 100 Continue\r\n\r\n"));
        PUMP_UNTIL(&app->f, &c, c.eof || answered(&c));
    }
    if (status_of(&c) != cases[i].status)
        fail_msg("%s: %d instead of %d: %s", cases[i].what, status_of(&c), cases[i].status,
                 c.in.data);
    if (cases[i].closed) {
        PUMP_UNTIL(&app->f, &c, c.eof);
        if (cases[i].status >= 400 && !has(&c, "\"success\":false"))
            fail_msg("%s: no envelope: %s", cases[i].what, c.in.data);
    } else { /* it stays: the next request is answered */
        nd_buf_clear(&c.in);
        client_says(&app->f, &c, "GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
        PUMP_UNTIL(&app->f, &c, c.eof || answered(&c));
        if (status_of(&c) != 200)
            fail_msg("%s: the connection didn't stay", cases[i].what);
    }
    client_close(&c);
}

static void refuses_what_smugglers_send(void **state)
{
    struct app app;

    (void)state;
    app_start(&app, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        try_case(&app, i, 100000);
    app_end(&app);
}

/* The same by the byte: what is refused must not depend on how TCP cuts it up. (A fold between two
 * reads of a trailer that is thrown away is the one thing let through.) */
static void refuses_it_byte_by_byte_too(void **state)
{
    struct app app;

    (void)state;
    app_start(&app, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (strcmp(cases[i].what, "folded trailer") != 0)
            try_case(&app, i, 1);
    app_end(&app);
}

static void a_NUL_in_a_value_is_refused(void **state)
{
    static const char bytes[] = GET "X: a\0b\r\n\r\n";
    struct app app;
    struct client c;

    (void)state;
    app_start(&app, NULL);
    client_open(&app.f, &c);
    client_send(&app.f, &c, bytes, sizeof bytes - 1);
    PUMP_UNTIL(&app.f, &c, c.eof);
    assert_int_equal(status_of(&c), 400);
    client_close(&c);
    app_end(&app);
}

static void paths_arrive_decoded_and_normalised(void **state)
{
    static const struct {
        const char *sent, *seen;
    } paths[] = {
        {"/a/b?c=d", "/a/b"},
        {"/a/./b/../c", "/a/c"},
        {"/a/..", "/"},
        {"/a/.", "/a/"},
        {"/%61%2Fb", "/a/b"},
        {"/a/%2e%2e/b", "/b"},
        {"/..a/.b", "/..a/.b"},
        {"/a//b", "/a//b"},
        {"/%C3%A9", "/\xc3\xa9"},
        {"http://h:1/x/../y?z", "/y"},
        {"http://h", "/"},
        {"/a+b", "/a+b"},
        {"/a%20b/../c/", "/c/"},
        {"/...", "/..."},
        {"/./", "/"},
    };
    struct app app;

    (void)state;
    app_start(&app, NULL);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        char request[256];
        struct client c;

        client_open(&app.f, &c);
        snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", paths[i].sent);
        client_says(&app.f, &c, request);
        PUMP_UNTIL(&app.f, &c, c.eof || answered(&c));
        assert_string_equal(app.path.data, paths[i].seen);
        assert_string_equal(app.host, i == 9 ? "h:1" : i == 10 ? "h" : "a");
        client_close(&c);
    }
    app_end(&app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_smugglers_send),
        cmocka_unit_test(refuses_it_byte_by_byte_too),
        cmocka_unit_test(a_NUL_in_a_value_is_refused),
        cmocka_unit_test(paths_arrive_decoded_and_normalised),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
