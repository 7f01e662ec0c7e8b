#ifndef CMINIMA_TORCH_H
#define CMINIMA_TORCH_H

#include "minima_torch.h"

#ifdef __cplusplus
extern "C"
#endif
    __attribute__((visibility("default"))) const minima_torch_table* minima_torch_api(void);

#endif
