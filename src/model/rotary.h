/* rotary.h - cos and sin tables of rotary position embeddings (Su 2021) under the scaling rules of
 * config.json: default, linear, dynamic, yarn, longrope, llama3. */
#ifndef PARE_MODEL_ROTARY_H
#define PARE_MODEL_ROTARY_H

#include "node.h"

/* Bytes that pare__rotary_prepare will take for rows up to this length; 0 without rotary. */
int64_t pare__rotary_bytes(const pare_model *model, int64_t length);

/* Memory for tables of up to this length (what is large enough stays), filled for it. */
pare_status pare__rotary_prepare(pare_model *model, int64_t length);

/* The tables [≥ T, D'/2] F32 for rows of T tokens, T at most the prepared length. Frequencies may
 * depend on T (dynamic, longrope): then they are made anew when T changes; nothing is allocated. */
pare_status pare__rotary_tables(pare_model *model, int64_t T, pare_tensor *cosines,
                                pare_tensor *sines);

/* The longest rows that make sense where config.json says `longest` positions: more where a rule
 * stretches them and config.json may not have counted that in. */
int64_t pare__rotary_reach(const pare_model *model, int64_t longest);

/* The same frequencies for another model; it prepares tables of its own. */
pare_status pare__rotary_copy(const struct pare__rotary *rotary, struct pare__rotary **copy);

/* be: the backend that tables were prepared with. */
void pare__rotary_free(struct pare__rotary **rotary, pare_backend *be);

#endif
