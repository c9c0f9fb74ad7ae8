// Cyclone DDS for the comparison: one writer or one reader a process.
#include <dds/dds.h>
#include <stdint.h>
#include <string.h>

#include "leaf.h"

typedef void (*take_fn)(void *context, const uint8_t *bytes, uint32_t size);

static dds_entity_t participant;
static dds_entity_t writer;
static int is_keyed;
static take_fn taking;
static void *taking_context;

// Keyed: the writer keeps the last value of each leaf for readers that come late.
// Otherwise nothing may be replaced: every value that is written has to be applied.
static dds_qos_t *quality(int keyed) {
  dds_qos_t *qos = dds_create_qos();
  dds_qset_reliability(qos, DDS_RELIABILITY_RELIABLE, DDS_SECS(60));
  if (keyed) {
    dds_qset_durability(qos, DDS_DURABILITY_TRANSIENT_LOCAL);
    dds_qset_durability_service(qos, 0, DDS_HISTORY_KEEP_LAST, 1, DDS_LENGTH_UNLIMITED,
                                DDS_LENGTH_UNLIMITED, DDS_LENGTH_UNLIMITED);
    dds_qset_history(qos, DDS_HISTORY_KEEP_LAST, 1);
  } else {
    dds_qset_history(qos, DDS_HISTORY_KEEP_ALL, 0);
  }
  return qos;
}

static dds_entity_t topic(int keyed) {
  is_keyed = keyed;
  participant = dds_create_participant(DDS_DOMAIN_DEFAULT, NULL, NULL);
  if (participant < 0) return participant;
  return dds_create_topic(participant, keyed ? &CompareLeaf_desc : &CompareBatch_desc,
                          keyed ? "leaf" : "batch", NULL, NULL);
}

int compare_open_writer(int keyed, int batching) {
  // Several values in one datagram, sent when it is full or flushed.
  dds_write_set_batch(batching != 0);
  dds_entity_t which = topic(keyed);
  if (which < 0) return which;
  dds_qos_t *qos = quality(keyed);
  writer = dds_create_writer(participant, which, qos, NULL);
  dds_delete_qos(qos);
  return writer;
}

int compare_write(uint32_t id, const uint8_t *bytes, uint32_t size) {
  if (is_keyed) {
    CompareLeaf leaf = {.id = id};
    if (size != sizeof leaf.bytes) return DDS_RETCODE_BAD_PARAMETER;
    memcpy(leaf.bytes, bytes, size);
    return dds_write(writer, &leaf);
  }
  CompareBatch batch = {{size, size, (uint8_t *)bytes, false}};
  return dds_write(writer, &batch);
}

int compare_flush(void) {
  dds_write_flush(writer);
  return 0;
}

// On the thread that receives: there is no queue and no wake-up between.
static void on_data(dds_entity_t reader, void *unused) {
  void *samples[256] = {NULL};
  dds_sample_info_t infos[256];
  (void)unused;
  int count;
  while ((count = dds_take(reader, samples, infos, 256, 256)) > 0) {
    for (int i = 0; i < count; i++) {
      if (!infos[i].valid_data) continue;
      if (is_keyed) {
        taking(taking_context, ((CompareLeaf *)samples[i])->bytes,
               sizeof((CompareLeaf *)samples[i])->bytes);
      } else {
        const CompareBatch *batch = samples[i];
        taking(taking_context, batch->bytes._buffer, batch->bytes._length);
      }
    }
    dds_return_loan(reader, samples, count);
    samples[0] = NULL;
  }
}

int compare_open_reader(int keyed, take_fn take, void *context) {
  taking = take;
  taking_context = context;
  dds_entity_t which = topic(keyed);
  if (which < 0) return which;
  dds_qos_t *qos = quality(keyed);
  dds_listener_t *listener = dds_create_listener(NULL);
  dds_lset_data_available(listener, on_data);
  dds_entity_t reader = dds_create_reader(participant, which, qos, listener);
  dds_delete_listener(listener);
  dds_delete_qos(qos);
  return reader;
}
