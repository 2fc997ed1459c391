#include "cli/model_loader.h"

#include "cli/format.h"

namespace optiq {

StatusOr<LoadedModel> LoadWeightsOnly(const std::string& path, const CommandContext& context) {
  LoadedModel model;
  ASSIGN_OR_RETURN(model.checkpoint, Checkpoint::Open(path));
  model.pool = std::make_unique<ThreadPool>(context.threads);
  ASSIGN_OR_RETURN(model.decoder, Decoder::Load(*model.checkpoint, model.pool.get()));
  context.Detail("{}: {}, {} layers, {}, {} threads", path, model.decoder->spec().model_type,
                 model.decoder->spec().layers.size(), FormatBytes(model.checkpoint->file_bytes()),
                 model.pool->num_threads());
  return model;
}

StatusOr<LoadedModel> LoadModel(const std::string& path, const CommandContext& context) {
  ASSIGN_OR_RETURN(LoadedModel model, LoadWeightsOnly(path, context));
  ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::Load(*model.checkpoint));
  ASSIGN_OR_RETURN(model.chat_template, ChatTemplate::Load(*model.checkpoint));
  ASSIGN_OR_RETURN(model.generation, LoadGenerationConfig(*model.checkpoint));
  ASSIGN_OR_RETURN(model.end_ids, EndOfTextIds(model.generation, model.checkpoint->config(), path + "/config.json",
                                               model.tokenizer.get()));
  return model;
}

}  // namespace optiq
