/*
 * report.c - the load generator's results, for a person and for a script.
 *
 * Times are seconds since the start in the text, milliseconds (wall clock, UTC) in the JSON.
 */
#include <string.h>

#include "stats.h"

static double since(const struct stats *s, int64_t at)
{
    return (double)(at - s->started) / 1000.0;
}

static const char *cut_text(int code, char *out, size_t size)
{
    if (code == 0)
        return "end of stream";
    if (code == -1)
        return "reset";
    if (code == -2)
        return "silence";
    snprintf(out, size, "close %d", code);
    return out;
}

static void report_kinds(const struct stats *s, FILE *out)
{
    fprintf(out, "%-22s %9s %8s %9s %9s %9s\n", "requests", "ok", "failed", "p50 ms", "p99 ms",
            "max ms");
    for (int k = 0; k < KINDS; k++) {
        const struct histogram *h = &s->latency[k];

        if (s->ok[k] + s->failed[k] == 0)
            continue;
        fprintf(out, "%-22s %9llu %8llu %9.2f %9.2f %9.2f\n", kind_texts[k],
                (unsigned long long)s->ok[k], (unsigned long long)s->failed[k],
                (double)histogram_at(h, 0.50) / 1000, (double)histogram_at(h, 0.99) / 1000,
                (double)h->max / 1000);
    }
}

static void report_failures(const struct stats *s, FILE *out)
{
    uint64_t listed = stats_total_failed(s);

    for (int k = 0; k < KINDS; k++)
        for (int c = 0; c < CAUSES; c++)
            if (s->causes[k][c] > 0)
                fprintf(out, "failed: %s, %s: %llu\n", kind_texts[k], cause_names[c],
                        (unsigned long long)s->causes[k][c]);
    for (uint64_t i = 0; i < listed && i < 10; i++)
        fprintf(out, "  at %.3f s %s: %s%s%.0d\n", since(s, s->failures[i].at),
                kind_texts[s->failures[i].kind], cause_names[s->failures[i].cause],
                s->failures[i].status ? " " : "", s->failures[i].status);
}

static void report_cuts(const struct stats *s, FILE *out)
{
    char text[32];

    if (s->ok[KIND_ws] == 0)
        return;
    fprintf(out, "websockets: %llu opened, %llu cut, %llu messages\n",
            (unsigned long long)s->ok[KIND_ws], (unsigned long long)s->cuts_count,
            (unsigned long long)s->ws_messages);
    for (uint64_t i = 0; i < s->cuts_count && i < 10; i++)
        fprintf(out, "  cut at %.1f s, open for %.1f s to %s: %s\n", since(s, s->cuts[i].at),
                (double)s->cuts[i].age / 1000, s->cuts[i].version,
                cut_text(s->cuts[i].code, text, sizeof text));
}

void report_text(const struct stats *s, FILE *out)
{
    report_kinds(s, out);
    for (size_t i = 0; i < s->versions_count; i++)
        fprintf(out, "version %s: %llu answers, from %.3f s to %.3f s\n", s->versions[i].name,
                (unsigned long long)s->versions[i].answers, since(s, s->versions[i].first),
                since(s, s->versions[i].last));
    report_cuts(s, out);
    fprintf(out, "longest time without an answer: %.0f ms%s", (double)s->gap / 1e6,
            s->gap_at != 0 ? "" : "\n");
    if (s->gap_at != 0)
        fprintf(out, ", until %.3f s\n", since(s, s->gap_at));
    if (s->unfinished > 0)
        fprintf(out, "not finished when the run ended: %llu\n", (unsigned long long)s->unfinished);
    report_failures(s, out);
    fprintf(out, "failed requests: %llu\n", (unsigned long long)stats_total_failed(s));
}

static void json_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            fprintf(out, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            fprintf(out, "\\u%04x", (unsigned char)*text);
        else
            fputc(*text, out);
    }
    fputc('"', out);
}

static void json_kinds(const struct stats *s, FILE *out)
{
    fprintf(out, "\"kinds\":{");
    for (int k = 0; k < KINDS; k++) {
        const struct histogram *h = &s->latency[k];
        const char *comma = "";

        fprintf(out,
                "%s\"%s\":{\"ok\":%llu,\"failed\":%llu,\"p50_us\":%llu,\"p99_us\":%llu,"
                "\"max_us\":%llu,\"causes\":{",
                k > 0 ? "," : "", kind_names[k], (unsigned long long)s->ok[k],
                (unsigned long long)s->failed[k], (unsigned long long)histogram_at(h, 0.50),
                (unsigned long long)histogram_at(h, 0.99), (unsigned long long)h->max);
        for (int c = 0; c < CAUSES; c++) {
            if (s->causes[k][c] == 0)
                continue;
            fprintf(out, "%s\"%s\":%llu", comma, cause_names[c],
                    (unsigned long long)s->causes[k][c]);
            comma = ",";
        }
        fprintf(out, "}}");
    }
    fprintf(out, "}");
}

static void json_lists(const struct stats *s, FILE *out)
{
    uint64_t failed = stats_total_failed(s);

    fprintf(out, ",\"versions\":[");
    for (size_t i = 0; i < s->versions_count; i++) {
        const struct version *v = &s->versions[i];

        fprintf(out, "%s{\"version\":", i > 0 ? "," : "");
        json_text(out, v->name);
        fprintf(out, ",\"answers\":%llu,\"first\":%lld,\"last\":%lld}",
                (unsigned long long)v->answers, (long long)v->first, (long long)v->last);
    }
    fprintf(out, "],\"cuts\":[");
    for (uint64_t i = 0; i < s->cuts_count && i < CUTS_MOST; i++) {
        const struct cut *c = &s->cuts[i];

        fprintf(out, "%s{\"at\":%lld,\"age\":%lld,\"code\":%d,\"version\":", i > 0 ? "," : "",
                (long long)c->at, (long long)c->age, c->code);
        json_text(out, c->version);
        fprintf(out, "}");
    }
    fprintf(out, "],\"failures\":[");
    for (uint64_t i = 0; i < failed && i < FAILURES_MOST; i++) {
        const struct failure *f = &s->failures[i];

        fprintf(out, "%s{\"at\":%lld,\"kind\":\"%s\",\"cause\":\"%s\",\"status\":%d}",
                i > 0 ? "," : "", (long long)f->at, kind_names[f->kind], cause_names[f->cause],
                f->status);
    }
    fprintf(out, "],\"seconds\":[");
    for (size_t i = 0; i < s->seconds_count; i++) {
        const struct second *row = &s->seconds[i];

        fprintf(out, "%s{\"ok\":%u,\"failed\":%u,\"p50_us\":%u,\"p99_us\":%u,\"max_us\":%u}",
                i > 0 ? "," : "", row->ok, row->failed, row->p50, row->p99, row->max);
    }
    fprintf(out, "]");
}

/* p99 over get, post and new together. */
static uint64_t common_p99(const struct stats *s)
{
    static struct histogram all;

    memset(&all, 0, sizeof all);
    for (int k = KIND_get; k <= KIND_new; k++) {
        all.count += s->latency[k].count;
        if (s->latency[k].max > all.max)
            all.max = s->latency[k].max;
        for (size_t i = 0; i < BUCKETS; i++)
            all.bucket[i] += s->latency[k].bucket[i];
    }
    return histogram_at(&all, 0.99);
}

void report_json(const struct stats *s, FILE *out)
{
    uint64_t ok = 0;

    for (int k = 0; k < KINDS; k++)
        ok += s->ok[k];
    fprintf(out,
            "{\"started\":%lld,\"ended\":%lld,\"ok\":%llu,\"failed\":%llu,\"unfinished\":%llu,"
            "\"reconnects\":%llu,\"p99_us\":%llu,\"gap_us\":%llu,\"gap_at\":%lld,"
            "\"ws_messages\":%llu,\"cut\":%llu,",
            (long long)s->started, (long long)s->ended, (unsigned long long)ok,
            (unsigned long long)stats_total_failed(s), (unsigned long long)s->unfinished,
            (unsigned long long)s->reconnects, (unsigned long long)common_p99(s),
            (unsigned long long)(s->gap / 1000), (long long)s->gap_at,
            (unsigned long long)s->ws_messages, (unsigned long long)s->cuts_count);
    json_kinds(s, out);
    json_lists(s, out);
    fprintf(out, "}\n");
}
