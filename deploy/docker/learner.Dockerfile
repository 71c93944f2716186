# Training jobs: on Kubernetes a Job's container runs `python -m preceptor.learner`, under compose supervisord runs them. As reward.Dockerfile for torch (tag that preceptor-learner-cuda).
ARG BASE_IMAGE=docker.io/library/python:3.11.14-slim-bookworm
FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX PIP_CERT PIP_TRUSTED_HOST TORCH_PIP_ARGS
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY services services
COPY deploy/docker deploy/docker
RUN deploy/docker/install.sh learner /opt/venv

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --create-home preceptor \
 && install -d -o 10001 -g 10001 /var/lib/preceptor/artifacts /run/preceptor
COPY --from=build /opt/venv /opt/venv
COPY deploy/docker/supervisord.conf /etc/preceptor/supervisord.conf
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false
LABEL org.opencontainers.image.title="preceptor-learner" org.opencontainers.image.licenses="Apache-2.0"
USER 10001
CMD ["supervisord", "-c", "/etc/preceptor/supervisord.conf"]
