# What deploy/Procfile's processes are told; each line of it sources this. STATE: an absolute folder for everything they keep.
set -a
STATE=${STATE:-$PWD/runs/procfile}
for service in GENERATION ROLLOUT REWARD FEEDBACK CONDUCTOR CONSOLE; do
  eval "PRECEPTOR_${service}_REDIS_URL=redis://127.0.0.1:6399/0 PRECEPTOR_${service}_ARTIFACTS_URL=file://$STATE/artifacts"
done
PRECEPTOR_GENERATION_RUN_ID=${RUN_ID:-loop-rl}
PRECEPTOR_GENERATION_INSTANCE=generation-0
PRECEPTOR_REWARD_TRUNCATE_PROMPTS=true
PRECEPTOR_FEEDBACK_DATABASE_URL=sqlite:///$STATE/feedback.sqlite
PRECEPTOR_CONDUCTOR_DATABASE_URL=sqlite:///$STATE/conductor.sqlite
PRECEPTOR_RUN_DIR=$STATE/learner
PRECEPTOR_CONDUCTOR_SUPERVISOR_SOCKET=$PRECEPTOR_RUN_DIR/supervisor.sock
PRECEPTOR_CONDUCTOR_JOBS_DIR=$PRECEPTOR_RUN_DIR/jobs
PRECEPTOR_CONDUCTOR_LOGS_DIR=$PRECEPTOR_RUN_DIR/logs
set +a
mkdir -p "$STATE/artifacts" "$STATE/redis" "$PRECEPTOR_RUN_DIR/jobs" "$PRECEPTOR_RUN_DIR/logs"
